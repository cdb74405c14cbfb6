"""`data=mixture`: every batch holds given shares of several data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from t2ilab.data.cache import digest_of
from t2ilab.data.joined import Joined
from t2ilab.data.order import Integers, Order, counter_hash, shuffled, stream
from t2ilab.data.report import DataReport, joined_reports
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source


class Mixture(DataSet):
    """Images of several data sets, each with its share of every batch.

    A source of weight 0 is there and not read, so that the phases of a curriculum may differ in the weights.

    Args:
        sources: makes a data set of (resolution, batch_size, workers), by name.
        weights: share of a batch of each source, by its name; they need not add up to 1.
        val: name of the source whose validation images, prompts and truth measure the run.
        resolution: of all sources.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Callable[..., DataSet]],
        weights: Mapping[str, float],
        val: str,
        resolution: int,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        if set(weights) != set(sources) or val not in sources:
            raise ValueError(
                f"data.weights needs one weight for each of {', '.join(sources)}, and data.val one of these names; "
                f"got {', '.join(weights)} and {val}"
            )
        self.quotas = quotas({name: weights[name] for name in sources}, batch_size)
        shared = {"resolution": resolution, "batch_size": batch_size, "workers": workers}
        self.sets = {name: make(**shared) for name, make in sources.items()}
        for name, part in self.sets.items():
            if part.sources() != [part.train]:
                raise ValueError(f"data.sources.{name}: a mixture needs images of one shape: omit buckets")
        self.train = self.joined = Joined([part.train for part in self.sets.values()])
        self.main = self.sets[val]
        self.val, self.world = self.main.val, self.main.world
        self.suites = tuple(dict.fromkeys(name for part in self.sets.values() for name in part.suites))

    def sources(self) -> list[Source]:
        return self.joined.sources

    def order(self, seed: int) -> Order:
        return MixtureOrder(tuple(map(len, self.sources())), tuple(self.quotas.values()), seed)

    def digest(self) -> str:
        return digest_of({"sources": [source.digest() for source in self.sources()], "quotas": self.quotas})

    def preview_prompts(self) -> list[str]:
        return self.main.preview_prompts()

    def report(self) -> DataReport | None:
        found = {name: part.report() for name, part in self.sets.items()}
        return joined_reports({name: report for name, report in found.items() if report is not None})

    def summary(self) -> str:
        rows = sum(self.quotas.values())
        shares = {name: f"{100 * self.quotas[name] / rows:.0f} %" for name in self.sets}
        return " and ".join(f"{shares[name]} {part.summary()}" for name, part in self.sets.items())


def quotas(weights: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Rows of each source in a batch: the weights, rounded by the method of largest remainders.

    Raises:
        ValueError: a weight is negative, all are 0, or one is too small for a row in the batch.
    """
    total = sum(weights.values())
    if not all(weight >= 0 for weight in weights.values()) or not total > 0:
        raise ValueError(f"data.weights must not be negative, nor all 0, got {dict(weights)}")
    exact = {name: batch_size * weight / total for name, weight in weights.items()}
    found = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: found[name] - exact[name])
    for name in by_remainder[: batch_size - sum(found.values())]:
        found[name] += 1
    unseen = [name for name, weight in weights.items() if weight > 0 and found[name] == 0]
    if unseen:
        raise ValueError(
            f"data.weights.{unseen[0]}={weights[unseen[0]]} is less than one row of {batch_size}: raise it, set it "
            "to 0, or raise data.batch_size"
        )
    return found


@dataclass(frozen=True)
class MixtureOrder:
    """Every batch has the same number of rows of each source, which runs through its own permutations.

    Step k has the positions k n .. (k + 1) n - 1 of the stream of a source with quota n, in random places.

    Attributes:
        sizes: rows of each source; they are counted one source behind the other.
        quotas: rows of each source in a global batch.
        seed: the run's seed.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]
    seed: int

    @property
    def num_rows(self) -> int:
        return sum(self.sizes)

    @property
    def batch_size(self) -> int:
        return sum(self.quotas)

    def arrays(self, step: int) -> tuple[Integers, Integers]:
        firsts = [0, *accumulate(self.sizes)]
        epochs, indices = np.empty((2, 0), dtype=np.int64)
        for number, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            # by the quota too: else another quota would show the same rows again
            seed = counter_hash("source", self.seed, number, quota)
            found = stream(seed, size, step * quota, (step + 1) * quota)
            epochs = np.concatenate([epochs, found[0]])
            indices = np.concatenate([indices, found[1] + firsts[number]])
        chance = shuffled(counter_hash("places", self.seed, step), self.batch_size)
        return epochs[chance], indices[chance]

    def describe(self) -> dict[str, Any]:
        rows = {"num_rows": list(self.sizes), "data.batch_size": self.batch_size}
        return {**rows, "data.weights": list(self.quotas), "seed": self.seed}
