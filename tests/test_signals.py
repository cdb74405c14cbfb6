"""Ctrl-C and SIGTERM at any moment: 130 and 143, a line, no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny import ROOT, finished_run

DRAWING = ("stage=sample", "prompts=[a]", "stage.copies=60000", "stage.batch_size=4")
MEASURING = ("stage=evaluate", "eval=full", "eval.scorer=null")


def stopped_after(seconds, number, folder, *options):
    """(exit status, stderr) of the command, sent a signal so many seconds after its start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "t2ilab", *options, f"run_dir={folder}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_is_still_being_imported(number):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "t2ilab", "--help"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(line.endswith(" omegaconf.errors\n") for line in process.stderr), "hydra comes next"
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in told and told.endswith("\nstopped, nothing was under way\n")


SLOW_MODULE = """
import time

for _ in range(400):
    try:
        time.sleep(0.005)
    except BaseException:  # as libraries do that look for what they can import
        pass
print("whole")
"""
IMPORTING = """
import signal, sys
from t2ilab.signals import Stopped, handled, stop

try:
    with handled(stop):
        print("ready", flush=True)
        import slow_module
        for _ in range(1000):
            signal.pause()
except Stopped as stopped:
    sys.exit(stopped.status)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_not_broken_off_by_a_signal_that_takes_effect_right_after_it(tmp_path, number):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(number)
    told, _ = process.communicate(timeout=60)
    assert told == "whole\n"
    assert process.returncode == 128 + number


LATE = """
import os, signal, sys, time
from t2ilab.signals import deaf, handled, stop

with handled(stop):
    import late_module
deaf()
time.sleep(0.3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_import_of_all_leaves_a_command_that_is_done_as_it_is(tmp_path, number):
    (tmp_path / "late_module.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", LATE], env=environment, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["train", "draw", "measure", "export"])
def test_a_signal_at_any_moment_is_a_status_and_a_line(tmp_path, what, number):
    """Imports, composition, networks, encoding, training, drawing, measuring: about every second."""
    options = {
        "train": ("debug=tiny", "trainer.max_steps=100000"),
        "draw": (*DRAWING, f"init_from={finished_run()}"),
        "measure": (*MEASURING, f"init_from={finished_run()}"),
        "export": ("stage=export", f"init_from={finished_run()}"),
    }[what]
    for moment in range(5):
        status, told = stopped_after(0.7 + moment * 1.4, number, tmp_path / str(moment), *options)
        assert "Traceback" not in told, (moment, told)
        assert status in ((0, 128 + number) if what == "export" else (128 + number,)), (moment, status, told)
        assert status == 0 or "stopped" in told or "stopping" in told, (moment, told)
