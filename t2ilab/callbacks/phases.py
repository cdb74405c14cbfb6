"""Says when a phase of a curriculum begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

from t2ilab.callbacks.learning import learning
from t2ilab.core.phased import phase_at


class PhaseLines(Callback):
    """Prints a line before the first step of each phase, and that of the present phase when a run goes on.

    Args:
        lines: by the first step of each phase; none for a run without phases.
    """

    def __init__(self, lines: Mapping[int, str]) -> None:
        self.lines = dict(lines)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        done = learning(module).steps_done
        if trainer.is_global_zero and self.lines and done < trainer.max_steps:
            starts = list(self.lines)
            print(self.lines[starts[phase_at(starts, done)]], flush=True)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        if trainer.is_global_zero and learner.step_finished and learner.steps_done in self.lines:
            print(f"\n{self.lines[learner.steps_done]}", flush=True)
