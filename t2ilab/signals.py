"""Ctrl-C and SIGTERM, from the first import on: 130 and 143, one line, no traceback.

Until a stage runs there is nothing to save, and the process ends where it is. From then on a signal raises `Stopped`,
so that files are closed and what is finished is told; not inside an import, which libraries catch, repeat or leave
half done, but as soon as it has ended. Training has a way of its own (callbacks/interrupt.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CAME: list[int] = []  # what `stop` was told; the exception that it raises may be lost in a library
AGAIN = 0.05  # seconds until an import that was under way is looked at again


class Stopped(BaseException):
    """Raised where the program is when a signal comes outside of training; `status` is for the shell."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Inside, both signals go to `handler`. Only the main thread can do that; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _CAME.clear()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def leave(number: int, frame: FrameType | None) -> None:
    """Signal handler for when nothing is held yet: one line, and out, whatever is being imported."""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one says so
        os.write(2, b"\nstopped, nothing was under way\n")
    os._exit(128 + number)


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: leave by an exception, so that files are closed; a second signal does not wait for it."""
    if _importing(frame):
        signal.signal(signal.SIGALRM, lambda _, later: stop(number, later))
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        return
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    release()
    _CAME.append(number)
    raise Stopped(number)


def came() -> int | None:
    """The signal that has stopped the program, whatever has become of the exception by which it did."""
    return _CAME[-1] if _CAME else None


def deaf() -> None:
    """From now on a signal does nothing, nor one that waits for an import: all is done, and Python ends."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _importing(frame: FrameType | None) -> bool:
    """Whether the program is inside the import of a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def release() -> None:
    """From now on a signal ends the process at once."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
