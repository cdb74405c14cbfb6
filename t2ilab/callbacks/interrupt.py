"""Ctrl-C and SIGTERM. While training: finish the step, save, stop. At other times: stop, and say how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASKED_EVERY = 5  # steps between two questions to all processes, each of which waits for their devices
NOTED = b"\nstopping: this step is finished and saved; the same signal again stops at once\n"


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Inside, both signals go to `handler`. Only the main thread can do that; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stopped(BaseException):
    """Raised where the program is when a signal comes outside of training; `status` is for the shell."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def stop(number: int, frame: Any) -> None:
    """Signal handler: leave by an exception, so that files are closed; a second signal does not wait for it."""
    release()
    raise Stopped(number)


def release() -> None:
    """From now on a signal ends the process at once."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class Interrupt(Callback):
    """Turns the first SIGINT or SIGTERM into a clean end of training, in all processes after the same step.

    Attributes:
        signal_number: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def note(self, number: int, frame: Any) -> None:
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
        together = trainer.world_size > 1
        if not module.step_finished or (together and module.steps_done % ASKED_EVERY):
            return
        noted = self.signal_number or 0
        if together:
            noted = int(trainer.strategy.reduce(torch.tensor(noted, device=module.device), reduce_op="max"))
        if noted:
            self.signal_number = noted
            trainer.should_stop = True
