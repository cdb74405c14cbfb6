"""Images that were compared for one prompt: pairs, rankings and ties."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

ABSENT = -1  # the rank of an image that a shorter comparison does not have


class Comparisons(ABC):
    """Random access to comparisons of up to K images each.

    Attributes:
        resolution: height and width of the images in pixels.
    """

    resolution: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of comparisons."""

    @abstractmethod
    def images(self, indices: Sequence[int]) -> Tensor:
        """uint8 (n, K, 3, resolution, resolution); black where a comparison has fewer."""

    @abstractmethod
    def prompts(self, indices: Sequence[int]) -> list[str]:
        """The prompt of each."""

    @abstractmethod
    def ranks(self, indices: Sequence[int]) -> Tensor:
        """(n, K) int64: 0 for the best, equal for a tie, ABSENT for none."""

    @abstractmethod
    def digest(self) -> str:
        """Identity of the content."""

    def best_accuracy(self) -> float | None:
        """The largest expected share of decided pairs that a model can predict; None where nobody knows."""
        return None

    def odds(self, indices: Sequence[int]) -> Tensor | None:
        """(n, K, K) float32: that image i is preferred to image j; None where nobody knows."""
        return None


def ends(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Of ranks (n, K) the comparisons that are no tie, (m,), and the numbers of their best and worst, (m, 2)."""
    present = ranks >= 0
    best = torch.where(present, ranks, ranks.max() + 1).argmin(1)
    worst = ranks.argmax(1)
    rows = torch.arange(len(ranks))
    kept = (ranks[rows, best] < ranks[rows, worst]).nonzero()[:, 0]
    return kept, torch.stack([best, worst], 1)[kept]
