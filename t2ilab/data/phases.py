"""Data sets that a run reads one after the other, as one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2ilab.core.phased import phase_at
from t2ilab.data.cache import digest_of
from t2ilab.data.order import Integers, Order
from t2ilab.data.report import DataReport
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source


@dataclass(frozen=True)
class PhaseOrder:
    """In each phase the order of its own data, whose rows stand behind those of the phases before.

    Every order is asked for the step of the whole run. So two phases with equally many rows and the same kind of
    order, as of the same images at two resolutions, go on with one permutation: the change repeats no image.

    Attributes:
        starts: first step of each phase, rising from 0.
        orders: of each phase; all have the same batch size.
    """

    starts: tuple[int, ...]
    orders: tuple[Order, ...]

    @property
    def num_rows(self) -> int:
        return sum(order.num_rows for order in self.orders)

    @property
    def batch_size(self) -> int:
        return self.orders[0].batch_size

    def arrays(self, step: int) -> tuple[Integers, Integers]:
        place = phase_at(self.starts, step)
        epochs, indices = self.orders[place].arrays(step)
        return epochs, indices + sum(order.num_rows for order in self.orders[:place])

    def describe(self) -> dict[str, Any]:
        parts = zip(self.starts, self.orders, strict=True)
        return {"phases": [{"from step": start, **order.describe()} for start, order in parts]}


class Phases(DataSet):
    """The data of every phase for training, and one data set for everything else.

    Args:
        main: validates, previews and reports; its batch size holds in all phases.
        phases: what is trained on in each phase.
        starts: first step of each phase, rising from 0.
    """

    def __init__(self, main: DataSet, phases: Sequence[DataSet], starts: Sequence[int]) -> None:
        super().__init__(batch_size=main.batch_size, workers=main.workers)
        self.main, self.phases, self.starts = main, list(phases), tuple(starts)
        self.train, self.val, self.world = main.train, main.val, main.world
        self.suites = main.suites

    def sources(self) -> list[Source]:
        return [source for phase in self.phases for source in phase.sources()]

    def order(self, seed: int) -> Order:
        return PhaseOrder(self.starts, tuple(phase.order(seed) for phase in self.phases))

    def digest(self) -> str:
        return digest_of({"phases": [phase.digest() for phase in self.phases], "main": self.main.digest()})

    def preview_prompts(self) -> list[str]:
        return self.main.preview_prompts()

    def report(self) -> DataReport | None:
        return self.main.report()

    def summary(self) -> str:
        return f"{self.main.summary()}, in {len(self.phases)} phases"
