"""Checkpoints that are whole or not there, and the search for the newest one that is whole.

Lightning decides what a checkpoint holds (raw weights, optimiser, loops, callbacks). This file decides how it
reaches the disk: temporary name, fsync, rename, and a sha256 beside it that says the file is complete. A file without
its sha256 may be whole all the same: it is tried, and where it is not whole it keeps lying there under another name.
"""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from t2ilab.callbacks.learning import learning
from t2ilab.data.module import DataModule
from t2ilab.export.manifest import file_digest, write_text

PARTS = ("state_dict", "optimizer_states", "loops")  # of a Lightning checkpoint that can be gone on from


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes `name.ckpt.sha256` and `name.ckpt`; one that cannot be written leaves what was there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            digest = file_digest(temporary)
            write_text(_seal(target), digest)
            temporary.replace(target)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)
            raise OSError(f"could not save {target.name}: {error}") from error


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What a folder holds to go on from.

    Attributes:
        path: the newest checkpoint that is whole, or None.
        note: what is to be said of it: its seal is missing or another, and it was read to the end instead.
        damaged: newer ones that are not whole.
    """

    path: Path | None
    note: str
    damaged: list[Damaged]


def newest_whole(folder: Path) -> Found:
    """The newest checkpoint that can be gone on from; nothing in the folder is changed.

    A seal that fits its file is believed. Without one (a copy that left the small files out, a run that was killed
    between the two) the file itself is asked: every record has a CRC-32, and it must hold what a checkpoint holds.
    """
    damaged: list[Damaged] = []
    for path in newest_first(folder):
        try:
            if is_sealed(path):
                return Found(path, "", damaged)
            fault = _fault(path)
        except FileNotFoundError:  # another process of this run has put it aside
            continue
        if fault is None:
            why = "another sha256 than its seal" if _seal(path).is_file() else "no sha256 file beside it"
            return Found(
                path, f"{path.name} has {why}; it was read to its end, is whole and is used", damaged
            )
        damaged.append(Damaged(path, f"is not whole ({fault})"))
    return Found(None, "", damaged)


def is_sealed(path: Path) -> bool:
    """Whether the sha256 file beside a checkpoint is that of its content."""
    seal = _seal(path).read_text(errors="replace").split() if _seal(path).is_file() else []
    return bool(seal) and file_digest(path) == seal[0]


def _fault(path: Path) -> str | None:
    """Why a file is no whole checkpoint, None if it is one."""
    try:
        with zipfile.ZipFile(path) as file:
            wrong = file.testzip()
        if wrong is not None:
            return f"the CRC-32 of {wrong} differs"
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # of a file of any content: each says in its own way what is wrong
        return (str(error) or type(error).__name__).splitlines()[0]
    missing = [key for key in PARTS if not isinstance(content, dict) or key not in content]
    return f"it holds no {missing[0]}" if missing else None


def options_in(path: Path) -> dict[str, Any] | None:
    """The options of the run that wrote a checkpoint; None if it does not tell or cannot be read."""
    if _fault(path) is not None:
        return None
    callbacks = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("callbacks", {})
    return callbacks.get(Checkpoint.__qualname__, {}).get("options")


def order_in(path: Path) -> dict[str, Any] | None:
    """What the rows of the run that wrote a whole checkpoint depended on; None if it does not tell."""
    content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    found: dict[str, Any] | None = content.get(DataModule.__qualname__, {}).get("order")
    return found


def step_of(path: Path) -> int:
    """The optimizer step that a checkpoint's name tells."""
    return int(path.stem.removeprefix("step_"))


def remove(path: Path) -> None:
    """Deletes a checkpoint that newer ones have replaced: the seal first, so that a part is never taken for whole."""
    _seal(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Gives a checkpoint and its seal a name that no run looks for and none overwrites; returns the new path."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    if _seal(path).is_file():
        _seal(path).rename(_seal(aside))
    return path.rename(aside)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder by their step; files of other names are somebody else's."""
    found = [path for path in folder.glob("step_*.ckpt") if path.stem.removeprefix("step_").isdigit()]
    return sorted(found, key=step_of, reverse=True)


class Checkpoint(Callback):
    """Saves every `every` optimizer steps and at the end; keeps the newest `keep` files, and all that have no seal.

    Weights that are not finite are not saved: they would in time replace every checkpoint that can be used.

    Args:
        folder: where the checkpoints go.
        every: optimizer steps between two checkpoints.
        keep: how many to keep; two, so that there is always one to fall back on.
        options: of the run, plain values that travel in its checkpoints.
        paused: in which it saves, so that the time is not that of training.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        keep: int,
        options: dict[str, Any] | None = None,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if every < 1 or keep < 1:
            raise ValueError(
                f"checkpoint.every and checkpoint.keep must be at least 1, got {every} and {keep}"
            )
        self.folder, self.every, self.keep, self.options = folder, every, keep, options
        self.paused, self.saved_step = paused, -1
        self._own: set[Path] = set()
        self._foreign: set[Path] = set()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        if learner.step_finished and learner.steps_done % self.every == 0:
            with self.paused():
                self.save(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if learning(module).steps_done != self.saved_step:
            with self.paused():
                self.save(trainer, module)

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the checkpoint of the present step; older ones go only after it is whole.

        Raises:
            ValueError: a weight is not finite.
            OSError: it cannot be written.
        """
        learner = learning(module)
        bad = [name for name, value in learner.named_parameters() if not value.isfinite().all()]
        if bad:
            raise ValueError(
                f"weights are not finite at step {learner.steps_done} ({bad[0]} and {len(bad) - 1} others); "
                f"{self._last()}. Start anew, in another run_dir, with a lower optimizer.lr or trainer.clip"
            )
        path = self.folder / f"step_{learner.steps_done:08d}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            raise OSError(
                f"{error}; {self._last()}. Make room and give the same command again to go on"
            ) from error
        self.saved_step = learner.steps_done
        if trainer.is_global_zero:
            self._own.add(path)
            self._forget_old()

    def _forget_old(self) -> None:
        """Removes older checkpoints beyond `keep`; those that no seal tells to be of this run are left alone."""
        known = [path for path in newest_first(self.folder) if path not in self._foreign]
        for old in known[self.keep :]:
            if old in self._own or is_sealed(old):
                remove(old)
            else:
                self._foreign.add(old)

    def state_dict(self) -> dict[str, Any]:
        return {"options": self.options}

    def _last(self) -> str:
        good = newest_whole(self.folder).path
        return f"the checkpoint {good.name} is whole" if good else "no earlier checkpoint exists"
