"""Ctrl-C and SIGTERM: finish the step, save, stop. A second signal stops at once."""

from __future__ import annotations

import signal
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Interrupt(Callback):
    """Turns the first SIGINT or SIGTERM into a saved checkpoint and a clean end of training.

    Attributes:
        signal_number: the signal that ended training, or None.
    """

    def __init__(self, checkpoint: Any) -> None:
        self.checkpoint = checkpoint
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if not module.step_finished:
            return
        if trainer.strategy.reduce_boolean_decision(self.signal_number is not None, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
