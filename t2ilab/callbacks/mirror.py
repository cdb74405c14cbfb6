"""What Lightning's loggers are shown of a run: numbers, the image of each prompt, and the files of its end.

Weights & Biases takes images with captions, and files as artifacts; TensorBoard takes images and texts; what
another logger has no place for is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from t2ilab.callbacks.rows import append_row
from t2ilab.eval.grid import to_arrays


class CallbackRows(Logger):
    """`callbacks.csv`: what callbacks log in a run without another logger, a row for each step."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._row: dict[str, float] = {}

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keeps the numbers until those of another step come."""
        at = float(step or 0)
        if self._row.get("step", at) != at:
            self.save()
        self._row |= {"step": at, **{name: float(value) for name, value in metrics.items()}}

    @rank_zero_only
    def save(self) -> None:
        """Writes what is kept."""
        if self._row:
            append_row(self.path, self._row)
        self._row = {}

    def finalize(self, status: str) -> None:
        self.save()


def mirrors(trainer: Trainer) -> list[Logger]:
    """The loggers that are shown what the run itself keeps in files."""
    return [logger for logger in trainer.loggers if not isinstance(logger, CallbackRows)]


def show_images(loggers: Iterable[Logger], images: Tensor, prompts: Sequence[str], step: int) -> None:
    """The image of each prompt, under the same name at every step.

    Args:
        images: uint8, (n, 3, h, w).
    """
    arrays = to_arrays(images)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image("preview", list(arrays), step=step, caption=list(prompts))
        elif isinstance(logger, TensorBoardLogger):
            for number, (image, prompt) in enumerate(zip(arrays, prompts, strict=True)):
                logger.experiment.add_image(f"preview/{number}", np.asarray(image), step, dataformats="HWC")
                logger.experiment.add_text(f"preview/{number}", prompt, step)


def show_files(loggers: Iterable[Logger], files: Sequence[Path], step: int) -> None:
    """The files with which a run ends: artifacts of Weights & Biases, texts of TensorBoard.

    Args:
        files: of one name each; of those that are no JSON, TensorBoard is told the path.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _log_artifacts(logger, files)
        elif isinstance(logger, TensorBoardLogger):
            for file in files:
                text = f"```\n{file.read_text()}\n```" if file.suffix == ".json" else f"`{file}`"
                logger.experiment.add_text(file.stem, text, step)
            logger.experiment.flush()  # the trainer has finished with it


def _log_artifacts(logger: WandbLogger, files: Sequence[Path]) -> None:
    import wandb

    for file in files:
        artifact = wandb.Artifact(f"{file.stem}-{logger.experiment.id}", type=file.stem)
        artifact.add_file(str(file))
        logger.experiment.log_artifact(artifact)
