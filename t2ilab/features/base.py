"""Encoders of clean images, whose features other parts learn from or measure with."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class FeatureEncoder(nn.Module, ABC):
    """Images to one vector per patch. It does not learn.

    Attributes:
        dim: width d of the vectors.
    """

    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, n, d) of images (B, 3, h, w) in [-1, 1]; n = g g patches, row by row."""

    def summary(self, images: Tensor) -> Tensor:
        """One vector (B, d) of each whole image: the class token, or the mean over the patches if there is none."""
        return self(images).mean(1)


def check_dim(found: int, dim: int, what: str) -> None:
    """Refuses an encoder of another width than the config promises.

    Raises:
        ValueError: naming the option.
    """
    if found != dim:
        raise ValueError(f"{what} gives features of width {found}: set <part>.encoder.dim={found}")


def stretched(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, h, w) as squares of this edge, whatever their shape (bicubic, antialiased)."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
