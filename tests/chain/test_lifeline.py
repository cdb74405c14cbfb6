"""A child of a chain ends with it, hears its signals, and says how it ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2ilab.chain import lifeline

CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
from t2ilab.chain import lifeline
lifeline.hold()
assert lifeline.VARIABLE not in os.environ
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
from t2ilab.chain import lifeline
start = subprocess.Popen
lifeline.subprocess.Popen = lambda command, **options: start([sys.executable, "-c", {child!r}], **options)
raise SystemExit(lifeline.run_to_its_end([]))
"""


@pytest.fixture
def family():
    """A parent that waits for its child, and the number of the child."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(child=CHILD)], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    yield parent, child
    parent.kill()
    parent.wait()


def gone(number, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{number}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # it has ended, and nobody has asked for its status
        time.sleep(0.02)
    return False


def test_a_killed_parent_leaves_no_child_behind(family):
    parent, child = family
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_child_and_its_status_the_parent(family, number):
    parent, child = family
    parent.send_signal(number)
    assert parent.wait(20) == 128 + number
    assert gone(child)


def test_a_process_without_a_lifeline_is_left_alone(monkeypatch):
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    lifeline.hold()
