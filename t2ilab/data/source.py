"""The one role every data set plays: numbered pictures with one or more captions each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Source(ABC):
    """Random access to captioned pictures of one resolution.

    Picture i is the same whenever, in whatever batch and by whichever worker it is asked for; order, caption
    choice and noise are the affair of the sampler, which makes a resumed run exact.

    Attributes:
        resolution: height and width of the pictures in pixels.
    """

    resolution: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def images(self, indices: Sequence[int]) -> Tensor:
        """The pictures of these numbers, uint8 (n, 3, resolution, resolution)."""

    @abstractmethod
    def captions(self, index: int) -> list[str]:
        """The captions of one picture, at least one; a training run draws among them."""

    @abstractmethod
    def digest(self) -> str:
        """Identity of the content: equal digests mean equal pictures and captions. Keys the caches."""

    def describe(self) -> dict[str, Any]:
        """What a report should say about this source."""
        return {"source": type(self).__name__, "size": len(self), "resolution": self.resolution}
