"""A finished run of `debug=tiny`, made once per test process, and a way to run any command in this process."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from t2ilab import cli
from t2ilab.config import composition

ROOT = Path(__file__).parents[1]
CPU = ("trainer.accelerator=cpu", "trainer.threads=1")


@functools.cache
def workplace() -> Path:
    """A temporary folder for this process, which also holds the caches."""
    folder = Path(tempfile.mkdtemp(prefix="t2ilab-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def finished_run() -> Path:
    """The run folder of `python -m t2ilab debug=tiny`. Read only: copy it before you change it."""
    run_dir = workplace() / "finished"
    command("debug=tiny", run_dir=run_dir)
    return run_dir


def command(*options: str, run_dir: Path) -> dict[str, Any]:
    """What `python -m t2ilab *options run_dir=...` does, without a new process; returns the config."""
    config = composition.checked([*CPU, *options, f"run_dir={run_dir}"])
    config["command"] = cli.command_line(list(options))
    before = os.environ.get("T2ILAB_CACHE")
    os.environ["T2ILAB_CACHE"] = str(workplace() / "cache")
    try:
        cli.run(config)
    finally:
        os.environ.pop("T2ILAB_CACHE")
        if before is not None:
            os.environ["T2ILAB_CACHE"] = before
    return config


def in_new_process(
    *arguments: str, cwd: Path, root: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python *arguments` from `cwd`, with this checkout (or `root`) on the path."""
    settings = {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "T2ILAB_CACHE": str(workplace() / "cache"),
        **environment,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
