"""The same prompts and the same noise, drawn again and again while the model learns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from t2ilab.averages.ema import EMA
from t2ilab.callbacks.learning import learning
from t2ilab.callbacks.mirror import mirrors, show_images
from t2ilab.eval.grid import save_grid
from t2ilab.pipeline import TextToImage

COLUMNS = 4


class Previews(Callback):
    """Writes `step_NNNNNNNN.png` with the averaged weights every `every` optimizer steps.

    Args:
        folder: where the grids go.
        generate: prompts to images, around the network in training.
        prompts: one image each.
        every: optimizer steps between two grids.
        seed: of the noise; row k is the noise of prompt k in every grid.
        say: prints the path of a new grid.
        paused: in which it draws, so that the time is not that of training.

    Attributes:
        then: called after each grid, once it is written.
    """

    def __init__(
        self,
        folder: Path,
        generate: TextToImage,
        *,
        prompts: list[str],
        ema: EMA,
        every: int,
        seed: int,
        say: Callable[[Path], None],
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        if every < 1:
            raise ValueError(f"stage.preview_every must be at least 1, got {every}")
        self.folder, self.generate, self.prompts = folder, generate, prompts
        self.ema, self.every, self.seed, self.say = ema, every, seed, say
        self.paused = paused
        self.then: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if learning(module).steps_done == 0 and trainer.is_global_zero:
            with self.paused():
                self.draw(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        due = learner.steps_done % self.every == 0 or learner.steps_done == trainer.max_steps
        if trainer.is_global_zero and learner.step_finished and due:
            with self.paused():
                self.draw(trainer, module)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Draws and writes one grid; loggers are shown each image."""
        learner = learning(module)
        path = self.folder / f"step_{learner.steps_done:08d}.png"
        with self.ema.applied(learner.student):
            images = self.generate(self.prompts, seed=self.seed)
        save_grid(path, images, self.prompts, columns=COLUMNS, info={"step": learner.steps_done})
        show_images(mirrors(trainer), images, self.prompts, learner.steps_done)
        self.say(path)
        self.then()
