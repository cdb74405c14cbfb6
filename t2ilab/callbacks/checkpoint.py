"""Checkpoints that are whole or not there, and the search for the newest one that is whole.

Lightning decides what a checkpoint holds (raw weights, optimiser, loops, callbacks). This file decides how it
reaches the disk: temporary name, fsync, rename, and a sha256 beside it that says the file is complete.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from t2ilab.manifest import file_digest, write_text


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes `name.ckpt` and then `name.ckpt.sha256`; a checkpoint without the second is not finished."""

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
            temporary.replace(target)
            write_text(_seal(target), digest)
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


def newest_whole(folder: Path) -> tuple[Path | None, list[Damaged]]:
    """The newest checkpoint whose content matches its seal, and the newer ones that do not match theirs."""
    damaged = []
    for path in _newest_first(folder):
        seal = _seal(path)
        if not seal.is_file():
            damaged.append(Damaged(path, "was not finished when the run stopped"))
        elif file_digest(path) != seal.read_text().strip():
            damaged.append(Damaged(path, "is damaged (its sha256 differs)"))
        else:
            return path, damaged
    return None, damaged


def step_of(path: Path) -> int:
    """The optimizer step that a checkpoint's name tells."""
    return int(path.stem.removeprefix("step_"))


def remove(path: Path) -> None:
    """Deletes a checkpoint: the seal first, so that what is left of it is never taken for whole."""
    _seal(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)


class Checkpoint(Callback):
    """Saves every `every` optimizer steps and at the end; keeps the newest `keep` files.

    Weights that are not finite are not saved: they would in time replace every checkpoint that can be used.

    Args:
        folder: where the checkpoints go.
        every: optimizer steps between two checkpoints.
        keep: how many to keep; two, so that there is always one to fall back on.
    """

    def __init__(self, folder: Path, *, every: int, keep: int) -> None:
        if every < 1 or keep < 1:
            raise ValueError(
                f"checkpoint.every and checkpoint.keep must be at least 1, got {every} and {keep}"
            )
        self.folder, self.every, self.keep = folder, every, keep
        self.saved_step = -1

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if module.step_finished and module.steps_done % self.every == 0:
            self.save(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if module.steps_done != self.saved_step:
            self.save(trainer, module)

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the checkpoint of the present step; older ones go only after it is whole.

        Raises:
            ValueError: a weight is not finite.
            OSError: it cannot be written.
        """
        bad = [name for name, value in module.named_parameters() if not value.isfinite().all()]
        if bad:
            raise ValueError(
                f"weights are not finite at step {module.steps_done} ({bad[0]} and {len(bad) - 1} others); "
                f"{self._last()}. Start anew, in another run_dir, with a lower optimizer.lr or trainer.clip"
            )
        path = self.folder / f"step_{module.steps_done:08d}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            raise OSError(
                f"{error}; {self._last()}. Make room and give the same command again to go on"
            ) from error
        self.saved_step = module.steps_done
        if trainer.is_global_zero:
            for old in _newest_first(self.folder)[self.keep :]:
                remove(old)

    def _last(self) -> str:
        good, _ = newest_whole(self.folder)
        return f"the checkpoint {good.name} is whole" if good else "no earlier checkpoint exists"
