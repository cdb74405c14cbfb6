"""The order of training rows: which image is seen when, as pure functions.

The stream of positions 0, 1, 2, ... runs through one permutation of the data set after another; step k
of global batch size G owns the positions k G .. (k + 1) G - 1. Position p is

    epoch = p div N,  index = permutation(seed, epoch)[p mod N].

Nothing here has a state, so a run may start at any step, and neither the number of processes nor the
accumulation changes what a step sees, only who computes which part of it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate as running_sum
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def counter_hash(purpose: str, *numbers: int) -> int:
    """128 random bits that depend on the arguments only."""
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def shuffled(key: int, num: int) -> Integers:
    """A random order of 0 .. num - 1: the argsort of the raw words of the Philox stream of a key of 128 bits.

    Raw words, and not `Generator.permutation`, whose stream numpy does not promise to keep.
    """
    return np.argsort(np.random.Philox(key=key).random_raw(num), kind="stable").astype(np.int64)


@cache
def _epochs(seed: int, num_rows: int) -> Callable[[int], Integers]:
    """The orders of one stream by epoch: the last two are kept, since a batch may reach into the next one."""

    @lru_cache(maxsize=2)
    def order_of(epoch: int) -> Integers:
        order = shuffled(counter_hash("order", seed, epoch), num_rows)
        order.setflags(write=False)
        return order

    return order_of


def permutation(seed: int, epoch: int, num_rows: int) -> Integers:
    """The order of all rows in one epoch, kept for the steps that follow."""
    return _epochs(seed, num_rows)(epoch)


def stream(seed: int, num_rows: int, start: int, stop: int) -> tuple[Integers, Integers]:
    """Epochs and indices at the positions start .. stop - 1 of one permutation after the other."""
    positions = np.arange(start, stop, dtype=np.int64)
    epochs = positions // num_rows
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = permutation(seed, epoch, num_rows)[positions[here] % num_rows]
    return epochs, indices


def caption_choice(seed: int, epoch: int, index: int, weights: int | Sequence[float]) -> int:
    """Which caption of image `index` is used in `epoch`.

    Args:
        weights: the number of captions (all equally likely), or one weight for each.
    Returns:
        A number below the number of captions; a pure function of the arguments.
    """
    bits = counter_hash("caption", seed, epoch, index) >> 64
    if isinstance(weights, int):
        if weights < 1:
            raise ValueError(f"image {index} has no caption to choose from")
        return bits * weights >> 64
    sums = list(running_sum(weights))
    if not sums or min(weights) < 0 or sums[-1] <= 0:
        raise ValueError(f"caption weights must be positive, got {list(weights)}")
    last = max(place for place, weight in enumerate(weights) if weight > 0)
    return min(bisect_right(sums, (bits >> 11) * 2.0**-53 * sums[-1]), last)


class Order(Protocol):
    """Which row comes when, as a pure function of the step."""

    @property
    def num_rows(self) -> int:
        """Rows that there are to choose from."""
        ...

    @property
    def batch_size(self) -> int:
        """G, rows of one optimizer step over all processes and micro-batches."""
        ...

    def arrays(self, step: int) -> tuple[Integers, Integers]:
        """Epochs (how often the row was seen before) and indices of the rows of global step `step`, (G,) each."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the order depends on, as plain values; two runs with equal descriptions see the same rows."""
        ...


@dataclass(frozen=True)
class EpochOrder:
    """Every row once per epoch, in a new order each epoch, in global batches of equal size.

    Attributes:
        num_rows: N, rows of the data set.
        batch_size: G, rows of one optimizer step over all processes and micro-batches.
        seed: the run's seed.
    """

    num_rows: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError("the data set is empty: there is nothing to order (see data.path)")
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")

    def arrays(self, step: int) -> tuple[Integers, Integers]:
        """Epochs and indices of the rows of global step `step`, (G,) each; batches run over epoch borders."""
        return stream(self.seed, self.num_rows, step * self.batch_size, (step + 1) * self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {"num_rows": self.num_rows, "data.batch_size": self.batch_size, "seed": self.seed}


@dataclass(frozen=True)
class MicroBatch:
    """The rows that one process computes in one go.

    Attributes:
        step: the global optimizer step.
        rows: row numbers inside the global batch, (n,); they name the row for all randomness.
        epochs, indices: the visit and the place in the data set of each row, (n,).
    """

    step: int
    rows: Integers
    epochs: Integers
    indices: Integers

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of one process, as a batch sampler of a DataLoader that has no length.

    Micro-batch m of rank r owns the rows (m W + r) n .. (m W + r + 1) n - 1 of each global batch of
    G = W A n rows, W the world size and A the accumulation.
    """

    order: Order
    world: int = 1
    rank: int = 0
    accumulate: int = 1
    start_step: int = 0
    stop_step: int | None = None

    def __post_init__(self) -> None:
        if self.world < 1 or self.accumulate < 1 or not 0 <= self.rank < self.world:
            raise ValueError(
                f"no part {self.rank} of {self.world} processes with an accumulation of {self.accumulate}"
            )
        if self.order.batch_size % (self.world * self.accumulate):
            raise ValueError(
                f"data.batch_size={self.order.batch_size} cannot be shared by {self.world} processes with an "
                f"accumulation of {self.accumulate}: it must be a multiple of {self.world * self.accumulate}"
            )

    @property
    def size(self) -> int:
        """n, rows of one micro-batch."""
        return self.order.batch_size // (self.world * self.accumulate)

    def __iter__(self) -> Iterator[MicroBatch]:
        steps = count(self.start_step) if self.stop_step is None else range(self.start_step, self.stop_step)
        for step in steps:
            epochs, indices = self.order.arrays(step)
            for micro in range(self.accumulate):
                first = (micro * self.world + self.rank) * self.size
                mine = slice(first, first + self.size)
                rows = np.arange(mine.start, mine.stop, dtype=np.int64)
                yield MicroBatch(step, rows, epochs[mine], indices[mine])
