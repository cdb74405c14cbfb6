"""Ctrl-C and SIGTERM while training: finish the step, save, stop. At other times see signals.py."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from t2ilab.callbacks.learning import learning
from t2ilab.signals import SIGNALS, Stopped, handled, release

ASKED_EVERY = 5  # steps between two questions to all processes, each of which waits for their devices
NOTED = b"\nstopping: this step is finished and saved; the same signal again stops at once\n"


class Interrupt(Callback):
    """Turns the first SIGINT or SIGTERM into a clean end of training, in all processes after the same step.

    Attributes:
        signal_number: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: remember it; the next one ends the process at once."""
        release()
        self.signal_number = number
        os.write(2, NOTED)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Holds the two signals, for the whole of `Trainer.fit`."""
        with handled(self.note):
            yield

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.signal_number is not None:
            raise Stopped(self.signal_number)
        for number in SIGNALS:  # Lightning has put its own handler for SIGTERM in front, which saves nothing
            if signal.getsignal(number) not in (self.note, signal.SIG_DFL):
                signal.signal(number, self.note)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner, together = learning(module), trainer.world_size > 1
        if not learner.step_finished or (together and learner.steps_done % ASKED_EVERY):
            return
        noted = self.signal_number or 0
        if together:
            noted = int(trainer.strategy.reduce(torch.tensor(noted, device=module.device), reduce_op="max"))
        if noted:
            self.signal_number = noted
            trainer.should_stop = True
