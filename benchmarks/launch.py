"""A run of a table through the command line: made once, gone on with if it was stopped, never mixed with another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from t2ilab.cli import command_line


def launch(run_dir: Path, overrides: Sequence[str], *, done: str, threads: int) -> Path:
    """Runs `python -m t2ilab *overrides run_dir=...` unless it is done; returns its folder.

    Args:
        done: the file that stands in the folder when all is there.

    Raises:
        ValueError: the folder holds a run by another command.
    """
    own = [*overrides, f"run_dir={run_dir}"]
    if (run_dir / done).is_file():
        found = yaml.safe_load((run_dir / "config.yaml").read_text())["command"]
        if found != command_line(own):
            raise ValueError(f"{run_dir} holds the run of another command, delete it first:\n  {found}")
        return run_dir
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    print(f"{run_dir.name} ...", file=sys.stderr, flush=True)
    with run_dir.with_suffix(".log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "t2ilab", *own]
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return run_dir
