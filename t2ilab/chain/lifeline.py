"""A process that ends with the one that started it, however that ends.

The parent keeps the writing end of a pipe. When it is gone - also by kill -9, where nobody can tidy up - the reading
end in the child sees the end of the file, and the child ends its whole process group: itself, the workers of its data
and the other processes of its run. A run survives that as it survives kill -9: its checkpoints are whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from t2ilab.signals import handled

VARIABLE = "T2ILAB_LIFELINE"  # number of the reading end, for the child alone


def hold() -> None:
    """In a child: ends its process group as soon as the parent is gone. Elsewhere nothing."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return

    def watch() -> None:
        os.read(int(number), 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def run_to_its_end(overrides: Sequence[str]) -> int:
    """Runs `python -m t2ilab *overrides` as a child, hands signals on to it, and gives its exit status back."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "t2ilab", *overrides],
            env=os.environ | {VARIABLE: str(reading)},
            pass_fds=[reading],
            process_group=0,
            stdin=subprocess.DEVNULL,
        )
        os.close(reading)
        with _handed_on(process.pid):
            status = process.wait()
    finally:
        os.close(writing)
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _handed_on(group: int) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM go to the child's process group, which saves and says how to go on."""

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)

    with handled(forward):
        yield
