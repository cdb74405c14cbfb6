"""From a provider of rows to the batches of a training loop."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from t2ilab.data.order import MicroBatch, MicroBatches, Order
from t2ilab.data.source import RowProvider, Rows


class RowBatches(Dataset[dict[str, Any]]):
    """A dataset whose items are whole micro-batches: one fetch each, nothing to collate."""

    def __init__(self, provider: RowProvider) -> None:
        self.provider = provider

    def __len__(self) -> int:
        return len(self.provider)

    def __getitems__(self, micro: MicroBatch) -> dict[str, Any]:
        """The provider's tensors and the names of their rows: step, rows, index, epoch."""
        fetched = self.provider.fetch(micro.indices.tolist(), micro.epochs.tolist())
        names = {"rows": micro.rows, "index": micro.indices, "epoch": micro.epochs}
        wrong = {name: len(value) for name, value in fetched.items() if len(value) != len(micro)}
        if wrong or names.keys() & fetched.keys():
            raise ValueError(f"a provider of {len(micro)} rows gave {wrong or list(fetched)}")
        return {"step": micro.step} | {name: torch.tensor(value) for name, value in names.items()} | fetched

    __getitem__ = __getitems__


class DataModule(LightningDataModule):
    """Gives the training loop its batches, from the step at which the last run stopped.

    `step` counts *consumed* optimizer steps; the stage sets it, since workers run ahead of the loop. It is
    all the state there is: the order is a pure function of it. Under several processes the Trainer needs
    `use_distributed_sampler=False`, as the sampler knows its rank.

    Args:
        provider: the rows.
        order: which row comes when.
        accumulate: micro-batches per optimizer step.
        workers: processes that fetch ahead; 0 fetches in the training process.
        identity: what else the rows depend on (such as the digest of the source), for the check on resume.
        stop_step: the loader ends before this step; None never ends.
    """

    def __init__(
        self,
        provider: RowProvider,
        order: Order,
        *,
        accumulate: int = 1,
        workers: int = 0,
        identity: Mapping[str, Any] | None = None,
        stop_step: int | None = None,
    ) -> None:
        super().__init__()
        if workers < 0:
            raise ValueError(f"data.workers must be 0 or more, got {workers}")
        if len(provider) != order.num_rows:
            raise ValueError(f"an order of {order.num_rows} rows does not fit {len(provider)} rows of data")
        self.provider = provider
        self.order = order
        self.accumulate = accumulate
        self.workers = workers
        self.identity = {**order.describe(), **(identity or {})}
        self.stop_step = stop_step
        self.step = 0

    def loader(
        self, *, world: int = 1, rank: int = 0, pin_memory: bool = False
    ) -> DataLoader[dict[str, Any]]:
        """The micro-batches of one process from `self.step` on."""
        sampler = MicroBatches(self.order, world, rank, self.accumulate, self.step, self.stop_step)
        return DataLoader(
            RowBatches(self.provider),
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=_as_fetched,
            num_workers=self.workers,
            worker_init_fn=_leave_signals_alone,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else each start draws from the global one
        )

    def first_of(self, step: int, *, world: int = 1) -> dict[str, Any]:
        """The first micro-batch of a step, fetched here and now."""
        return RowBatches(self.provider)[
            next(iter(MicroBatches(self.order, world, 0, self.accumulate, step)))
        ]

    def fetch_again(self, batch: Rows) -> Mapping[str, Any]:
        """What the provider gives for the rows of `batch`, to see how long that takes."""
        return self.provider.fetch(batch["index"].tolist(), batch["epoch"].tolist())

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The loader of this process of the attached trainer (of a single process without one)."""
        if self.trainer is None:
            return self.loader()
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return self.loader(world=self.trainer.world_size, rank=self.trainer.global_rank, pin_memory=on_gpu)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "order": dict(self.identity)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the saved step; refuses data or an order that is not the one of the saved run."""
        check_same(state_dict["order"], self.identity)
        self.step = int(state_dict["step"])


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Holds what the rows depend on against what they did when a checkpoint was written.

    Raises:
        ValueError: listing what differs.
    """
    differing = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(
            "cannot resume: the training data or its order has changed (" + "; ".join(differing) + "). "
            "Set it back, or start a new run with another run_dir"
        )


def _leave_signals_alone(worker: int) -> None:
    """Ctrl-C and SIGTERM often reach the whole group; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_fetched(batch: Any) -> Any:
    return batch
