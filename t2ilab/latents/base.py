"""What every autoencoder promises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """Images to latents of unit variance, and back.

    Attributes:
        channels: C of the latents.
        factor: image edge over latent edge.
    """

    channels: int
    factor: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in [-1, 1] to latents (B, C, h / factor, w / factor) of unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        """Latents (B, C, H, W) to images (B, 3, factor H, factor W) in [-1, 1].

        Args:
            clamp: whether what lies beyond is cut; what is cut has no gradient, so methods that follow one decode
                without.
        """

    def fitting(self, latents: Tensor) -> str:
        """The options with which these latents (n, C, H, W) would have unit variance; "" if it has none."""
        return ""

    def check_images(self, images: Tensor) -> None:
        """Raises ValueError unless `images` are (B, 3, h, w) with edges divisible by `factor`."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the autoencoder wants images (B, 3, h, w), got {tuple(images.shape)}")
        if images.shape[-2] % self.factor or images.shape[-1] % self.factor:
            raise ValueError(
                f"image edges must be divisible by the autoencoder's factor {self.factor}, got "
                f"{images.shape[-2]}x{images.shape[-1]}: change data.resolution"
            )


def to_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to the nearest value; what lies beyond is cut."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def per_channel(values: float | Sequence[float], channels: int, name: str) -> Tensor:
    """One number for all channels, or one number each, as (1, channels, 1, 1)."""
    numbers = [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]
    if len(numbers) not in (1, channels):
        raise ValueError(f"autoencoder.{name} must be one number or {channels}, got {len(numbers)}")
    if not all(math.isfinite(number) for number in numbers) or (name == "scale" and min(numbers) <= 0):
        raise ValueError(f"autoencoder.{name} must be finite (and a scale positive), got {numbers}")
    return torch.tensor(numbers).expand(channels).reshape(1, channels, 1, 1).clone()
