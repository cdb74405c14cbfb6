"""Lets an average of the weights follow the training, and travel in its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from t2ilab.averages.ema import EMA
from t2ilab.averages.snapshots import set_later_aside
from t2ilab.callbacks.learning import learning
from t2ilab.optim.schedule_free import models


class Averaging(Callback):
    """Calls an `EMA` after every optimizer step."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.ema.to(module.device)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            set_later_aside(folder_of(trainer), learning(module).steps_done)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        if learner.step_finished:
            self.ema.follow(learner.student, models(trainer.optimizers))
            if trainer.is_global_zero:
                self.ema.keep(folder_of(trainer), learner.steps_done, trainer.max_steps)

    def state_dict(self) -> dict[str, Any]:
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state)


def folder_of(trainer: Trainer) -> Path:
    """Where a run keeps its snapshots."""
    return Path(trainer.default_root_dir) / "averages"
