"""Encoders of clean pictures, whose features other parts learn from or measure with."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class FeatureEncoder(nn.Module, ABC):
    """Pictures to one vector per patch. It does not learn.

    Attributes:
        dim: width d of the vectors.
    """

    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features (B, n, d) of images (B, 3, h, w) in [-1, 1]; n = g g patches, row by row."""


def check_dim(found: int, dim: int, what: str) -> None:
    """Refuses an encoder of another width than the config promises.

    Raises:
        ValueError: naming the option.
    """
    if found != dim:
        raise ValueError(f"{what} gives features of width {found}: set terms.<name>.encoder.dim={found}")
