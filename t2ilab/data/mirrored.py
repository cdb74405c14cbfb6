"""The mirror images of a source beside its images, for data sets so small that they would be learned by heart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from t2ilab.data.cache import digest_of
from t2ilab.data.source import Source

SIDES = re.compile(r"\b(left|right)(most|wards?)?\b", re.IGNORECASE)


class Mirrored(Source):
    """All images of a source, then those mirrored left to right of which no caption names a side.

    Both are rows of their own, seen once in each epoch and encoded once, so order, captions and resume are as ever.

    Attributes:
        mirrored: numbers in the source of the images that are mirrored.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.resolution, self.caption_weights = source, source.resolution, source.caption_weights
        self.mirrored = [
            index for index in range(len(source)) if not any(map(SIDES.search, source.captions(index)))
        ]

    def __len__(self) -> int:
        return len(self.source) + len(self.mirrored)

    def images(self, indices: Sequence[int]) -> Tensor:
        images = self.source.images([self._of(index) for index in indices])
        flip = torch.tensor([index >= len(self.source) for index in indices], dtype=torch.bool)
        return torch.where(flip[:, None, None, None], images.flip(3), images)

    def captions(self, index: int) -> list[str]:
        return self.source.captions(self._of(index))

    def weights(self, index: int) -> list[float] | None:
        return self.source.weights(self._of(index))

    def digest(self) -> str:
        return digest_of({"mirrored": self.source.digest()})

    def image_digest(self) -> str:
        return digest_of({"mirrored": self.source.image_digest(), "members": self.mirrored})

    def text(self) -> str:
        """For the start line: how many images are mirrored, and why others are not."""
        kept = len(self.source) - len(self.mirrored)
        why = f" ({kept} have captions that name left or right)" if kept else ""
        return f"with {len(self.mirrored)} mirror images{why}"

    def _of(self, index: int) -> int:
        """The number in the source of a row."""
        return index if index < len(self.source) else self.mirrored[index - len(self.source)]
