"""Loggers that mirror what a run writes anyway."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def wandb(*, save_dir: str, project: str, offline: bool, name: str | None, entity: str | None) -> Any:
    """Weights & Biases: one run there for each run folder here, also when it was stopped and goes on.

    Args:
        save_dir: the run folder.
        offline: `wandb sync` uploads it later.
        name, entity: as W&B has them; None for its choice.
    """
    from lightning.pytorch.loggers import WandbLogger

    own = hashlib.sha256(str(Path(save_dir).resolve()).encode()).hexdigest()[:16]
    return WandbLogger(
        save_dir=save_dir, project=project, offline=offline, name=name, entity=entity, id=own, resume="allow"
    )
