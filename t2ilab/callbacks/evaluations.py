"""The evaluation of the run's end, also while it trains: one row of numbers every so many steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from t2ilab.averages.ema import EMA
from t2ilab.callbacks.learning import learning
from t2ilab.callbacks.mirror import mirrors
from t2ilab.callbacks.rows import keep_rows
from t2ilab.files import write_csv


class Evaluations(Callback):
    """Writes `evaluations.csv`: the step and every metric of the averaged weights.

    The last step is left to the end of the run, which adds its own row with `add`. Nothing here draws from a
    stream of training, so a run trains the same with and without it.

    Args:
        path: the file; rows past the step of a restored checkpoint are cut off.
        measure: gives the metrics of the network as it stands.
        every: optimizer steps between two evaluations; 0 leaves only the end.
        paused: in which it measures, so that the time is not that of training.
    """

    def __init__(
        self,
        path: Path,
        measure: Callable[[], dict[str, float]],
        *,
        ema: EMA,
        every: int,
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.path, self.measure, self.ema, self.every, self.paused = path, measure, ema, every, paused
        self.loggers: list[Logger] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.loggers = mirrors(trainer)
        if trainer.is_global_zero:
            keep_rows(self.path, learning(module).steps_done)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        last = learner.steps_done == trainer.max_steps
        due = self.every > 0 and learner.steps_done % self.every == 0 and not last
        if trainer.is_global_zero and learner.step_finished and due:
            with self.paused(), self.ema.applied(learner.student):
                self.add(learner.steps_done, self.measure())

    def add(self, step: int, values: dict[str, float]) -> None:
        """Appends a row, in place of an earlier one of this step; new metrics are new columns. Loggers mirror it."""
        rows: list[dict[str, Any]] = []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        rows.append({"step": step, **{key: value for key, value in values.items() if math.isfinite(value)}})
        write_csv(self.path, rows)
        for logger in self.loggers:
            shown = {f"eval/{key}": value for key, value in values.items() if math.isfinite(value)}
            logger.log_metrics(shown, step=step)
