"""Ctrl-C and SIGTERM at any moment: 130 and 143, a line, no traceback."""

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
    for moment in range(8):
        status, told = stopped_after(0.5 + moment * 0.9, number, tmp_path / str(moment), *options)
        assert "Traceback" not in told, (moment, told)
        assert status in ((0, 128 + number) if what == "export" else (128 + number,)), (moment, status, told)
        assert status == 0 or "stopped" in told or "stopping" in told, (moment, told)
