"""What one sees while it trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0


class Progress(Callback):
    """Step, loss, images/s and time left, from the clock of this start of the run."""

    def __init__(self, metrics: Any) -> None:
        self.metrics = metrics
        self._start = self._shown = 0.0
        self._first = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start = self._shown = time.perf_counter()
        self._first = module.steps_done

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not (module.step_finished and trainer.is_global_zero):
            return
        now, terminal = time.perf_counter(), sys.stdout.isatty()
        last = module.steps_done == trainer.max_steps
        if not last and now - self._shown < (TERMINAL_SECONDS if terminal else LOG_SECONDS):
            return
        self._shown = now
        done = module.steps_done - self._first
        rate = done / (now - self._start)
        left = (trainer.max_steps - module.steps_done) / rate
        line = self._line(module, trainer.max_steps, rate * module.batch_size, left)
        print(f"\r{line}" if terminal else line, end="\n" if last or not terminal else "", flush=True)

    def _line(self, module: LightningModule, steps: int, speed: float, left: float) -> str:
        filled = int(24 * module.steps_done / steps)
        loss = self.metrics.last.get("train/loss")
        shown = "loss   ...  " if loss is None else f"loss {loss:.4f}"
        return (
            f"[{'#' * filled}{'.' * (24 - filled)}] step {module.steps_done}/{steps}  {shown}  "
            f"{speed:5.0f} images/s  {duration(left)} left "
        )


def duration(seconds: float) -> str:
    """`3:05` for 185 seconds, `1:02:03` for 3723."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
