"""Training metrics: collected without waiting for the device, written every few steps.

One row of `metrics.csv` per logging step: the mean since the last row of the loss, of every term, of the loss
per noise bin, the gradient norm, the learning rate and the speed. Loggers (wandb, tensorboard) mirror the rows.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

BINS = 4  # noise bins: [0, 1/4), ... [3/4, 1]


@dataclass(frozen=True)
class LoggerOptions:
    """Optimizer steps per row, and what mirrors the rows (a function of `save_dir`, or None)."""

    every: int
    mirror: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"logger.every must be at least 1, got {self.every}")


class Metrics(Callback):
    """Writes `metrics.csv`.

    Args:
        path: the file; rows past the step of a restored checkpoint are cut off, so no step appears twice.
        every: optimizer steps per row.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every = path, every
        self.last: dict[str, float] = {}
        self.seconds = 0.0
        self._records: list[tuple[dict[str, Tensor], Tensor | None]] = []
        self._norms: list[Tensor] = []
        self._clock = time.perf_counter()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._clock = time.perf_counter()
        if trainer.is_global_zero:
            keep_rows(self.path, module.steps_done)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self._records.append(module.record)
        if module.step_finished:
            self._norms.append(module.grad_norm)
            if module.steps_done % self.every == 0:
                self._flush(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._records and module.step_finished:
            self._flush(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]

    def _flush(self, trainer: Trainer, module: LightningModule) -> None:
        steps, records = len(self._norms), self._records
        values = means(records, lambda sums: trainer.strategy.reduce(sums, reduce_op="sum"))
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self.seconds += elapsed
        row = {"step": float(module.steps_done), **{f"train/{key}": value for key, value in values.items()}}
        row["train/grad_norm"] = float(torch.stack(self._norms).mean())
        row["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["train/images_per_s"] = steps * module.batch_size / elapsed
        row["train/seconds"] = self.seconds
        self.last, self._records, self._norms = row, [], []
        if trainer.is_global_zero:
            append_row(self.path, row)
            for logger in trainer.loggers:
                logger.log_metrics(row, step=module.steps_done)
        if not math.isfinite(row["train/loss"]):
            raise ValueError(
                f"the loss is {row['train/loss']} at step {module.steps_done}: lower optimizer.lr or trainer.clip; "
                "the last checkpoint before it is kept"
            )


def means(records: list[tuple[dict[str, Tensor], Tensor | None]], reduce: Any) -> dict[str, float]:
    """Mean of each term over all rows of all processes, and of `loss` per noise bin.

    Args:
        records: per micro-batch the per-row values of each term (n,), and the times (n,) or None.
        reduce: sums a tensor over the processes.
    """
    terms = {name: torch.cat([values[name] for values, _ in records]).double() for name in records[0][0]}
    sums = [
        torch.stack([values.sum(), torch.tensor(float(len(values)), device=values.device)])
        for values in terms.values()
    ]
    names = list(terms)
    times = [t for _, t in records if t is not None]
    if times:
        index = (torch.cat(times) * BINS).long().clamp(0, BINS - 1)
        for k in range(BINS):
            chosen = index == k
            sums.append(torch.stack([terms["loss"][chosen].sum(), chosen.sum().double()]))
            names.append(f"loss_t{k / BINS:.2f}-{(k + 1) / BINS:.2f}")
    total = reduce(torch.stack([item.double() for item in sums])).tolist()
    return {
        name: value / count if count else math.nan for name, (value, count) in zip(names, total, strict=True)
    }


def append_row(path: Path, row: dict[str, float]) -> None:
    """Adds a row; the first row decides the columns."""
    fresh = not path.is_file() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(row)
        writer.writerow([_cell(value) for value in row.values()])


def _cell(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def keep_rows(path: Path, steps_done: int) -> None:
    """Cuts off the rows after `steps_done` and a half-written last line."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    columns = lines[0].count(",") if lines else 0
    whole = [line for line in lines[1:] if line.endswith("\n") and line.count(",") == columns]
    kept = [line for line in whole if int(line.split(",")[0]) <= steps_done]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join([*lines[:1], *kept]))
    temporary.replace(path)
