"""A vector that travels in further channels of the latents, so that everything treats it as a part of the picture.

It lies row by row in the last channels, followed by zeros. Shapes: B batch, c further channels, H W latent, d
numbers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def carry(vector: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Vectors (B, d) as maps (B, c, H, W).

    Raises:
        ValueError: they have no room.
    """
    dim, area = vector.shape[1], size[0] * size[1]
    if dim > channels * area:
        raise ValueError(
            f"a vector of {dim} numbers needs {-(-dim // area)} further channels of {size[0]} x {size[1]}, "
            f"got {channels}"
        )
    return F.pad(vector, (0, channels * area - dim)).unflatten(1, (channels, *size))


def carried(maps: Tensor, dim: int) -> Tensor:
    """The vectors (B, d) in maps (B, c, H, W)."""
    return maps.flatten(1)[:, :dim]
