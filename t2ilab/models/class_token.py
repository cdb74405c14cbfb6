"""A vector that is noised and denoised along with the image, as one more token of a transformer (REG).

Shapes: B batch, C channels of the image, c further ones, H W latent, d numbers of the vector, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2ilab.core.carried import carried, carry


class ClassToken(nn.Module):
    """The way of the vector into the sequence and out of it: a linear layer with a norm, and a linear layer.

    Args:
        dim: d.
        channels: c, the last ones of the latents; see `t2ilab.core.carried`.
        width: D.
    Source: Wu et al. 2025 (REG), arXiv 2507.01467.
    """

    def __init__(self, dim: int, channels: int, width: int) -> None:
        super().__init__()
        self.dim, self.channels = dim, channels
        self.into = nn.Linear(dim, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)

    def enter(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The image's part (B, C, H, W) of latents (B, C + c, H, W), and the token (B, 1, D) in a list."""
        image, maps = x[:, : -self.channels], x[:, -self.channels :]
        return image, [self.norm(self.into(carried(maps, self.dim)))[:, None]]

    def leave(self, image: Tensor, hidden: Tensor) -> Tensor:
        """The whole output (B, C + c, H, W): the image's, and what the token (B, 1, D) says of the vector."""
        height, width = image.shape[-2:]
        maps = carry(self.out(hidden[:, 0]), self.channels, (height, width))
        return torch.cat([image, maps.to(image.dtype)], 1)


def check_channels(dim: int | None, channels: int, in_channels: int, input_size: int) -> None:
    """Refuses further channels that do not hold the vector, or leave none for the image."""
    if (dim or 0) > channels * input_size**2 or (channels > 0) != (dim is not None):
        raise ValueError(
            f"model.class_dim={dim} numbers are carried by model.class_channels={channels} "
            f"channels of {input_size} x {input_size}: choose enough of them, or null and 0"
        )
    if channels >= in_channels:
        raise ValueError(f"model.class_channels={channels} must be less than model.in_channels={in_channels}")
