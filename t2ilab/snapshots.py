"""Averaged weights that a run keeps on its way: safetensors files in its folder `averages/`.

Each says in its header at which step it was taken. They are written whole or not at all, and are a function of
the run: one that is gone on from an earlier step writes the same files again.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

EARLY = "early.safetensors"


def write(path: Path, weights: dict[str, Tensor], *, step: int, **notes: float) -> None:
    """Writes one snapshot with its step, and further numbers, in the header.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    header = {name: repr(value) for name, value in {"step": step, **notes}.items()}
    try:
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_file(on_cpu, temporary, metadata=header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"could not save {path.name}: {error}. Make room and give the same command again to go on"
        ) from error


def header(path: Path) -> dict[str, str]:
    """What was noted of a snapshot.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def step_of(path: Path) -> int:
    """The optimizer step of a snapshot."""
    return int(header(path)["step"])


def forget_after(folder: Path, step: int) -> None:
    """Deletes what a run that goes on from `step` has not reached yet, and what was half-written."""
    for path in folder.glob(".*.tmp"):
        path.unlink()
    for path in folder.glob("*.safetensors"):
        if step_of(path) > step:
            path.unlink()
