"""Training metrics: collected without waiting for the device, written every few steps.

One row of `metrics.csv` per logging step: the mean since the last row of the loss, of every term, of the loss
per noise bin, the gradient norm, the learning rate and the speed. Loggers (wandb, tensorboard) mirror the rows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from t2ilab.callbacks.learning import Learning, learning
from t2ilab.callbacks.mirror import mirrors
from t2ilab.callbacks.rows import append_row, keep_rows

BINS = 4  # noise bins: [0, 1/4), ... [3/4, 1]


class Metrics(Callback):
    """Writes `metrics.csv`.

    What was collected since the last row is part of a checkpoint, so a continued run writes the very rows of
    one that was not stopped.

    Args:
        path: the file; rows past the step of a restored checkpoint are cut off, so no step appears twice.
        every: optimizer steps per row.

    Attributes:
        more: gives further numbers of a row by name, if there are any.
        seconds: of training, over all starts of the run: steps with what they wait for.
        aside: seconds of what was done in `paused`, over all starts.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every = path, every
        self.more: Callable[[], dict[str, float]] = dict
        self.last: dict[str, float] = {}
        self.seconds = self.aside = 0.0
        self._sums: dict[str, Tensor] = {}
        self._steps, self._elapsed = 0, 0.0
        self._clock, self._training = time.perf_counter(), True
        self._device = torch.device("cpu")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._clock, self._device = time.perf_counter(), module.device
        self._sums = {name: value.to(module.device) for name, value in self._sums.items()}
        if trainer.is_global_zero:
            keep_rows(self.path, learning(module).steps_done)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is no training: its time is neither in `seconds` nor in the images per second."""
        if self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize()  # steps that it has not done yet are training
        self._tick()
        self._training = False
        try:
            yield
        finally:
            self._tick()
            self._training = True

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self._tick()
        learner = learning(module)
        found = sums(*learner.record)
        if learner.step_finished:
            norm = _wide(learner.grad_norm)  # the same in every process: a step counts once, not once in each
            found["grad_norm"] = torch.stack([norm, torch.ones_like(norm)]) / trainer.world_size
            self._steps += 1
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if learner.step_finished and self._due(trainer, learner):
            self._write(trainer, learner)

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._tick()
        checkpoint["metrics"] = {
            "seconds": self.seconds,
            "aside": self.aside,
            "elapsed": self._elapsed,
            "steps": self._steps,
            "sums": self._reduced(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["metrics"]
        self.aside = state.get("aside", 0.0)  # older checkpoints count it as training
        self.seconds, self._elapsed, self._steps = state["seconds"], state["elapsed"], state["steps"]
        keep = 1.0 if trainer.is_global_zero else 0.0  # the saved sums are those of all processes
        self._sums = {name: keep * value for name, value in state["sums"].items()}

    def _due(self, trainer: Trainer, learner: Learning) -> bool:
        return learner.steps_done % self.every == 0 or learner.steps_done == trainer.max_steps

    def _tick(self) -> None:
        now = time.perf_counter()
        passed, self._clock = now - self._clock, now
        if self._training:
            self.seconds += passed
            self._elapsed += passed
        else:
            self.aside += passed

    def _reduced(self, trainer: Trainer) -> dict[str, Tensor]:
        """The sums over all processes; every process has to ask for them."""
        if trainer.world_size == 1 or not self._sums:
            return dict(self._sums)
        total = trainer.strategy.reduce(torch.stack(list(self._sums.values())), reduce_op="sum")
        return dict(zip(self._sums, total, strict=True))

    def _write(self, trainer: Trainer, learner: Learning) -> None:
        total = {name: value.tolist() for name, value in self._reduced(trainer).items()}
        means = {name: value / count if count else math.nan for name, (value, count) in total.items()}
        self._tick()
        row = {"step": float(learner.steps_done), **{f"train/{name}": means[name] for name in means}}
        row |= {f"train/{name}": value for name, value in self.more().items()}
        row["train/lr"] = learner.lr
        row["train/images_per_s"] = self._steps * learner.batch_size / self._elapsed
        row["train/seconds"] = self.seconds
        self.last, self._sums, self._steps, self._elapsed = row, {}, 0, 0.0
        if trainer.is_global_zero:
            append_row(self.path, row)
            shown = {name: value for name, value in row.items() if name != "step" and math.isfinite(value)}
            for logger in mirrors(trainer):
                logger.log_metrics(shown, step=learner.steps_done)
        if not math.isfinite(row["train/loss"]):
            raise ValueError(
                f"the loss is {row['train/loss']} at step {learner.steps_done}; earlier checkpoints are kept. "
                "Start anew, in another run_dir, with a lower optimizer.lr or trainer.clip"
            )


def sums(values: Mapping[str, Tensor], t: Tensor | None, main: str = "loss") -> dict[str, Tensor]:
    """(sum, number of rows) in float64 (float32 on MPS) of each term, and of the main one per noise bin.

    Args:
        values: {name: (n,)} per-row values of one micro-batch, `loss` among them.
        t: the times (n,), or None for no bins.
        main: whose bins; where a loss has several terms the first, so that further terms leave them comparable.
    """
    found = {name: _sum(_wide(value), torch.ones_like(_wide(value))) for name, value in values.items()}
    if t is not None:
        index, loss = (t * BINS).long().clamp(0, BINS - 1), _wide(values[main])
        for k in range(BINS):
            inside = index == k
            found[f"loss_t{k / BINS:.2f}-{(k + 1) / BINS:.2f}"] = _sum(
                torch.where(inside, loss, torch.zeros_like(loss)), inside.to(loss)
            )
    return found


def _wide(value: Tensor) -> Tensor:
    """In float64, which MPS does not have: there in float32."""
    return value.float() if value.device.type == "mps" else value.double()


def _sum(values: Tensor, counts: Tensor) -> Tensor:
    return torch.stack([values.sum(), counts.sum()])
