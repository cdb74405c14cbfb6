"""Whole runs for tests: in this process or as the command that a user gives, and what they leave behind."""

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.config.composition import compose, groups, left_to_the_model

TINY = ["debug=tiny"]
FOUNDATION = (  # a few steps of stage=autoencoder or stage=encoder, a checkpoint every other step
    "data.resolution=32",
    "data.batch_size=8",
    "schedule.warmup=1",
    "logger.every=1",
    "checkpoint.every=2",
    "trainer.precision=fp32",
    "trainer.threads=1",
)
PATIENCE = 600.0  # seconds that a busy machine may take to import everything


class Crash(BaseException):
    """What a test raises in the middle of a run: nothing in the project catches it, as nothing survives kill -9."""


def run_here(folder, *overrides, tiny=TINY):
    """A run of `python -m t2ilab debug=tiny ...` in this process; gives its result back."""
    options = [*tiny, f"run_dir={folder}", *overrides]
    config = dict.fromkeys(groups()) | compose(options) | {"command": "test"}
    config |= dict.fromkeys(left_to_the_model(config["stage"].get("inherits", ()), options))
    module, _, function = config["stage"]["job"].rpartition(".")
    return getattr(importlib.import_module(module), function)(config)


def after_step(monkeypatch, step, act):
    """Has the runs of this process do `act` right after optimizer step `step`, before anything notes the step."""
    from t2ilab.callbacks.averaging import Averaging

    follow = Averaging.on_train_batch_end

    def acting(self, trainer, module, *rest):
        if module.step_finished and module.steps_done == step:
            act()
        follow(self, trainer, module, *rest)

    monkeypatch.setattr(Averaging, "on_train_batch_end", acting)


def crash():
    raise Crash


def crash_here(folder, step, *overrides, tiny=TINY):
    """A run in this process that dies after `step`."""
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, step, crash)
        with pytest.raises(Crash):
            run_here(folder, *overrides, tiny=tiny)


def start(folder, *overrides, tiny=TINY, launcher=(), **environment):
    """The real command, as a process in its own group; what it prints is in `folder`.log.

    Args:
        launcher: arguments of the interpreter that start the command in several processes.
    """
    with Path(f"{folder}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "t2ilab", *tiny, f"run_dir={folder}", *overrides],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )


def finish(folder, *overrides, tiny=TINY, status=0, **environment):
    """Runs the real command to its end."""
    process = start(folder, *overrides, tiny=tiny, **environment)
    assert process.wait(PATIENCE) == status, said(folder)
    return said(folder)


def said(folder):
    path = Path(f"{folder}.log")
    return path.read_text() if path.is_file() else ""


def signal_at(process, folder, step, number=signal.SIGKILL):
    """Sends a signal as soon as metrics.csv shows `step`; gives the exit status back."""
    wait_for(lambda: last_step(folder) >= step, process, folder)
    process.send_signal(number)
    return process.wait(PATIENCE)


def wait_for(condition, process, folder):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended with {process.poll()}:\n{said(folder)}"
        assert time.monotonic() < end, said(folder)
        time.sleep(0.002)


def last_step(folder):
    path = Path(folder) / "metrics.csv"
    lines = path.read_text().splitlines()[1:] if path.is_file() else []
    steps = [line.split(",")[0] for line in lines]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def steps(folder):
    """The step of every row, in the order of the file."""
    return [int(row["step"]) for row in _rows(folder)]


def losses(folder):
    """{step: row of metrics.csv as text} without what depends on the clock."""
    clock = ("train/images_per_s", "train/seconds")
    return {int(r["step"]): {k: v for k, v in r.items() if k not in clock} for r in _rows(folder)}


def _rows(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder):
    """Every weight of the export, raw and averaged ones."""
    root = Path(folder) / "export"
    files = sorted(root.rglob("*.safetensors"))
    return {
        f"{file.relative_to(root)}:{key}": value for file in files for key, value in load_file(file).items()
    }


def same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one and one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differing, differing


def same_run(folder, reference):
    """Every row (but for the clock), the final weights and their average are the same, bit for bit."""
    assert steps(folder) == steps(reference)
    assert losses(folder) == losses(reference)
    same_weights(folder, reference)
