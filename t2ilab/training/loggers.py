"""Loggers that mirror what a run writes anyway, and the callbacks and profilers of Lightning that watch it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler

from t2ilab.build import Node, build
from t2ilab.callbacks.mirror import CallbackRows
from t2ilab.export.manifest import write_text
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import LoggerOptions
from t2ilab.runs.ranks import is_first_process


def wandb(*, save_dir: str, project: str, offline: bool, name: str | None, entity: str | None) -> Any:
    """Weights & Biases: one run there for each run folder here, also when it was stopped, moved, and goes on.

    The run there is called by what the file `wandb_id` of the folder says.

    Args:
        save_dir: the run folder.
        offline: `wandb sync` uploads it later.
        name, entity: as W&B has them; None for its choice.
    """
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        save_dir=save_dir,
        project=project,
        offline=offline,
        name=name,
        entity=entity,
        id=own_id(Path(save_dir)),
        resume="allow",
    )


def loggers_in(run: RunDir, options: LoggerOptions, *, wanted: bool) -> list[Logger]:
    """The chosen logger, or a file for what callbacks log where they are `wanted` and there is none.

    Raises:
        ValueError: `logger.mirror` makes something else.
    """
    if options.mirror is None:
        return [CallbackRows(run.path / "callbacks.csv")] if wanted else []
    logger = options.mirror(save_dir=str(run.path))
    if not isinstance(logger, Logger):
        raise ValueError(f"logger.mirror must make a Logger of Lightning, it made {type(logger).__name__}")
    return [logger]


def callbacks_of(nodes: Mapping[str, Node] | None) -> list[Callback]:
    """Those of `callbacks=`.

    Raises:
        ValueError: a node makes something else.
    """
    made = {name: build(node) for name, node in (nodes or {}).items()}
    for name, callback in made.items():
        if not isinstance(callback, Callback):
            raise ValueError(
                f"callbacks.{name} must make a Callback of Lightning, it made {type(callback).__name__}"
            )
    return list(made.values())


def profiler_in(folder: Path, profiler: str | Profiler | None) -> Profiler | None:
    """The profiler of `trainer.profiler=`, which writes `profile-*.txt` into the run folder."""
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if profiler is None:
        return None
    made = kinds[profiler]() if isinstance(profiler, str) else profiler
    made.dirpath = made.dirpath or folder
    made.filename = made.filename or "profile"
    return made


def own_id(folder: Path) -> str | None:
    """W&B's name of the run in this folder, made at its first start; the first process alone asks for it."""
    if not is_first_process():
        return None
    path = folder / "wandb_id"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, secrets.token_hex(8))
    return path.read_text().strip()
