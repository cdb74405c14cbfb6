"""Buckets of aspect ratios: a few shapes of about equal area, and batches of one shape each.

An image goes to the shape whose aspect ratio w / h is nearest on a logarithmic scale, is resized until it covers
that shape, and cropped to its middle. Rows are counted bucket by bucket; `BucketOrder` says which of them make a
global batch together.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from t2ilab.data.cache import digest_of
from t2ilab.data.order import Integers, counter_hash, shuffled, stream
from t2ilab.data.source import Source

if TYPE_CHECKING:
    from t2ilab.data.folder import FolderSource

Shape = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Buckets:
    """The shapes that images are sorted into.

    Attributes:
        multiple: every edge is a multiple of it: of the autoencoder's factor times the model's patch.
        max_aspect: no longer edge is more than this times the shorter one.
        least: a bucket with fewer images gives them to the others; the batch size is a good number.
    Source: NovelAI's aspect ratio bucketing; Podell et al. 2023 (SDXL), arXiv 2307.01952, section 2.3. The list of
    shapes and the logarithmic distance are our own.
    """

    multiple: int
    max_aspect: float
    least: int

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.least < 1:
            raise ValueError(
                "data.buckets.multiple and data.buckets.least must be at least 1, "
                f"got {self.multiple} and {self.least}"
            )
        if not self.max_aspect >= 1:
            raise ValueError(f"data.buckets.max_aspect must be at least 1, got {self.max_aspect}")

    def shapes(self, resolution: int) -> list[Shape]:
        """All shapes of at most resolution^2 pixels of which no edge could be larger, the square first.

        With a shape its transpose is in the list.

        Raises:
            ValueError: the resolution itself is not a multiple.
        """
        if resolution % self.multiple:
            raise ValueError(
                f"data.resolution={resolution} must be a multiple of data.buckets.multiple={self.multiple}"
            )
        budget, step = resolution**2, self.multiple
        edges = range(step, int(resolution * math.sqrt(self.max_aspect)) + step, step)
        found = [
            (height, width)
            for height in edges
            for width in edges
            if height * width <= budget < min((height + step) * width, height * (width + step))
            and max(height, width) <= self.max_aspect * min(height, width)
        ]
        return sorted(found, key=lambda shape: (max(shape) / min(shape), shape))

    def split(self, folder: FolderSource) -> list[Bucket]:
        """The images of a folder by their shapes, empty buckets left out, tall ones first."""
        sizes, shapes = np.array(folder.sizes), self.shapes(folder.resolution)
        while True:
            chosen = nearest(shapes, sizes[:, 0], sizes[:, 1])
            counts = np.bincount(chosen, minlength=len(shapes))
            few = [place for place, number in enumerate(counts) if 0 < number < self.least]
            if not few or np.count_nonzero(counts) == 1:
                break
            shapes.pop(min(few, key=lambda place: counts[place]))
        members = {
            shapes[place]: np.flatnonzero(chosen == place).tolist() for place in np.flatnonzero(counts)
        }
        return [
            Bucket(folder, members[shape], *shape) for shape in sorted(members, key=lambda s: s[1] / s[0])
        ]


def nearest(shapes: Sequence[Shape], heights: Integers, widths: Integers) -> Integers:
    """Which shape is nearest in ln(w / h), for images of these heights and widths, (n,) each.

    Of two that are equally near it is the one that stands first, which in the order of `Buckets.shapes` is the one
    closer to the square: so a transposed image goes to the transposed shape.
    """
    aspects = np.array([math.log(width / height) for height, width in shapes])
    distances = np.abs(np.log(widths / heights)[:, None] - aspects)
    return np.round(distances, 9).argmin(axis=1)


class Bucket(Source):
    """Some images of a folder at one shape.

    Args:
        members: their numbers in the folder.
    """

    def __init__(self, folder: FolderSource, members: Sequence[int], height: int, width: int) -> None:
        self.folder, self.members = folder, list(members)
        self.height, self.width, self.resolution = height, width, folder.resolution
        self.caption_weights = folder.caption_weights

    def __len__(self) -> int:
        return len(self.members)

    def images(self, indices: Sequence[int]) -> Tensor:
        """uint8 (n, 3, height, width)."""
        return self.folder.images_at([self.members[index] for index in indices], self.height, self.width)

    def captions(self, index: int) -> list[str]:
        return self.folder.captions(self.members[index])

    def weights(self, index: int) -> list[float] | None:
        return self.folder.weights(self.members[index])

    def digest(self) -> str:
        return digest_of({"folder": self.folder.digest(), **self._shape()})

    def image_digest(self) -> str:
        return digest_of({"folder": self.folder.image_digest(), **self._shape()})

    def _shape(self) -> dict[str, Any]:
        return {"members": self.members, "height": self.height, "width": self.width}


@dataclass(frozen=True)
class BucketOrder:
    """Global batches of one bucket each; what does not fill a batch is carried into the next epoch.

    Bucket b with N_b rows runs through one permutation after the other. By the end of epoch e it has given
    floor((e + 1) N_b / G) batches, so epoch e owns floor((e + 1) N_b / G) - floor(e N_b / G) of them, and no row is
    ever left out. The batches of an epoch come in a random order. With one bucket this is EpochOrder.

    Attributes:
        sizes: N_b, rows of each bucket; they are counted bucket by bucket.
        batch_size: G, rows of one optimizer step, all of one bucket, so every process computes on one shape.
        seed: the run's seed.
    """

    sizes: tuple[int, ...]
    batch_size: int
    seed: int

    @property
    def num_rows(self) -> int:
        return sum(self.sizes)

    def arrays(self, step: int) -> tuple[Integers, Integers]:
        epoch = self._epoch_of(step)
        epochs, indices = _batches(self, epoch)
        place = step - self.batches_before(epoch)
        return epochs[place], indices[place]

    def describe(self) -> dict[str, Any]:
        return {"num_rows": list(self.sizes), "data.batch_size": self.batch_size, "seed": self.seed}

    def batches_before(self, epoch: int) -> int:
        """Batches of all epochs before this one."""
        return sum(epoch * size // self.batch_size for size in self.sizes)

    def _epoch_of(self, step: int) -> int:
        most_batches = step + len(self.sizes) + 1  # floor(x) > x - 1, per bucket
        most = most_batches * self.batch_size // self.num_rows + 1
        return bisect_right(range(most + 1), step, key=self.batches_before) - 1


@lru_cache(maxsize=2)
def _batches(order: BucketOrder, epoch: int) -> tuple[Integers, Integers]:
    """Epochs and indices of all batches of an epoch, (batches, G) each, in the order in which they come."""
    found, first = [], 0
    for number, size in enumerate(order.sizes):
        start, stop = (e * size // order.batch_size * order.batch_size for e in (epoch, epoch + 1))
        seed = order.seed if len(order.sizes) == 1 else counter_hash("bucket", order.seed, number)
        epochs, indices = stream(seed, size, start, stop)
        found.append((epochs.reshape(-1, order.batch_size), indices.reshape(-1, order.batch_size) + first))
        first += size
    epochs, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(order.sizes) > 1:
        chance = shuffled(counter_hash("batches", order.seed, epoch), len(epochs))
        epochs, indices = epochs[chance], indices[chance]
    return epochs, indices
