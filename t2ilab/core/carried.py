"""A vector that travels in further channels of the latents, so that everything treats it as a part of the image.

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
    dim, room = vector.shape[1], _room(vector.shape[1], channels, size)
    return F.pad(vector, (0, room - dim)).unflatten(1, (channels, *size))


def carried(maps: Tensor, dim: int) -> Tensor:
    """The vectors (B, d) in maps (B, c, H, W).

    Raises:
        ValueError: the maps are too small for them.
    """
    _room(dim, maps.shape[1], (maps.shape[2], maps.shape[3]))
    return maps.flatten(1)[:, :dim]


def _room(dim: int, channels: int, size: tuple[int, int]) -> int:
    area = size[0] * size[1]
    if dim > channels * area:
        raise ValueError(
            f"a vector of {dim} numbers needs {-(-dim // area)} further channels of {size[0]} x {size[1]}, "
            f"got {channels}"
        )
    return channels * area
