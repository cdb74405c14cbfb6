"""Memory or disk that has run out is one sentence that names the option to change."""

import errno
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from t2ilab.data import cache
from t2ilab.eval import intervals
from t2ilab.shortage import PACKAGE, PLACES, shortage
from tests.tiny import ROOT

TRAINING = {
    "stage.name": "pretrain",
    "data.batch_size": 128,
    "trainer.accumulate": 1,
    "eval.batch_size": 64,
    "data.workers": 4,
    "data.resolution": 256,
    "checkpoint.keep": 2,
}


def told(raising, options=TRAINING):
    with pytest.raises(Exception) as caught:
        raising()
    return shortage(caught.value, options.get)


@pytest.mark.parametrize(
    "raising",
    [
        lambda: torch.empty(2**50),
        lambda: torch.empty(2**62, 2**62),
        lambda: np.empty(2**50),
        lambda: bytearray(2**55),
    ],
)
def test_what_cannot_be_allocated_is_told_whoever_was_asked(raising):
    said = told(raising)
    assert said.startswith("out of memory while preparing the run (")
    assert "lower data.batch_size=128, or raise trainer.accumulate=1" in said


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libcublas.so: failed to map segment from shared object"),
        MemoryError(),
    ],
)
def test_every_kind_of_lack_of_memory_is_known(error):
    assert "out of memory" in shortage(error, TRAINING.get)
    wrapped = RuntimeError("while stepping")
    wrapped.__cause__ = error
    assert "data.batch_size" in shortage(wrapped, TRAINING.get)
    assert "\n" not in shortage(error, TRAINING.get)


def test_the_option_is_that_of_the_place_where_memory_ran_out(monkeypatch, tmp_path):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(intervals, "_parts", full)
    assert told(lambda: intervals.bootstrap([1.0])).endswith("lower eval.batch_size=64")
    encoding = told(lambda: cache.open_or_fill(tmp_path, {"a": 1}, 4, full))
    assert encoding.startswith("out of memory while encoding") and encoding.endswith(
        "lower data.resolution=256"
    )
    assert told(full, {"stage.name": "sample", "stage.batch_size": 32}).endswith("lower stage.batch_size=32")
    assert "accumulate" not in told(full, TRAINING | {"stage.name": "encoder"})


def test_every_place_is_one_that_the_package_has():
    for place, _, _ in PLACES:
        file, _, function = place.partition(":")
        assert not file or (PACKAGE / file).exists(), file
        sources = [PACKAGE / file] if file.endswith(".py") else list(PACKAGE.rglob("*.py"))
        assert any(f"def {function}" in source.read_text() for source in sources), place


def test_a_full_disk_and_a_killed_worker_name_what_helps():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "make room for the run folder" in shortage(full, TRAINING.get)
    assert "lower checkpoint.keep=2; caches lie in" in shortage(full, TRAINING.get)
    said = OSError("could not save step_3.ckpt: No space left on device; Make room and go on")
    assert shortage(said, TRAINING.get) == str(said)
    killed = RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed.")
    assert "lower data.workers=4" in shortage(killed, TRAINING.get)


def test_other_errors_are_none_of_these():
    for error in (ValueError("out of memory"), KeyError("a"), RuntimeError("shapes differ"), OSError("gone")):
        assert shortage(error, TRAINING.get) is None


@pytest.mark.slow
def test_a_batch_that_is_too_large_for_this_machine_is_one_sentence(tmp_path):
    def little():
        resource.setrlimit(resource.RLIMIT_AS, (6_000_000_000, 6_000_000_000))

    options = ["debug=tiny", "data.size=200", "data.batch_size=60000", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "t2ilab", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=little,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "lower data.batch_size=60000" in done.stderr
