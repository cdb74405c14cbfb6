"""The roles in data: numbered images with one or more captions each, and the rows that are made of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Source(ABC):
    """Random access to captioned images of one resolution.

    Image i is the same whenever, in whatever batch and by whichever worker it is asked for; order, caption
    choice and noise are the affair of the sampler, which makes a resumed run exact.

    Attributes:
        resolution: height and width of the images in pixels; of other shapes, the edge of the square that has
            no fewer pixels.
        caption_weights: how likely a caption of each kind is, by kind; None: all captions of an image equally.
    """

    resolution: int
    caption_weights: Mapping[str, float] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def images(self, indices: Sequence[int]) -> Tensor:
        """The images of these numbers, uint8 (n, 3, resolution, resolution)."""

    @abstractmethod
    def captions(self, index: int) -> list[str]:
        """The captions of one image, at least one; a training run draws among them."""

    def weights(self, index: int) -> list[float] | None:
        """How likely each of the `captions` of an image is, not necessarily adding up to 1; None: all equally."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """Identity of the content: equal digests mean equal images and captions, whatever the weights of the
        latter. Keys the caches."""

    def image_digest(self) -> str:
        """Identity of the images alone, where their captions may change without them."""
        return self.digest()

    def shown(self, index: int) -> str:
        """The caption that an image is measured and previewed with: the first one that training draws."""
        weights = self.weights(index)
        texts = self.captions(index)
        return texts[0] if weights is None else next(t for t, w in zip(texts, weights, strict=True) if w > 0)


Rows = dict[str, Any]
"""A batch as the loader gives it: tensors (n, ...) by name, their numbers `rows` (n,) in the batch, its `step`."""


class RowProvider(Protocol):
    """Random access to the rows of a data set, many at a time."""

    def __len__(self) -> int: ...

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        """The rows `indices` in their visits `epochs`: tensors (n, ...); a pure function of both."""
        ...


def checked_weights(weights: Mapping[str, float], kinds: Sequence[str]) -> dict[str, float]:
    """The weights, checked, without those of other kinds that are 0.

    Raises:
        ValueError: they are not one weight for each of `kinds`, or none of them is positive.
    """
    weights = {kind: weight for kind, weight in weights.items() if weight or kind in kinds}
    if set(weights) != set(kinds):
        raise ValueError(
            f"data.caption_weights needs one weight for each of {', '.join(kinds)} (0 for none), "
            f"got {', '.join(weights) or 'nothing'}"
        )
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"data.caption_weights must not be negative, nor all 0, got {weights}")
    return weights
