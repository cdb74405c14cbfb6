"""Data sets of comparisons: a training and a held-out split."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2ilab.data import scenes
from t2ilab.data.sets import DataSet


class ComparisonSet(DataSet):
    """A training and a held-out split of comparisons.

    Attributes:
        train, val: the splits.
    """

    holds = "comparisons"
    train: Any
    val: Any

    def __len__(self) -> int:
        return len(self.train)

    def preview_prompts(self) -> list[str]:
        return self.val.prompts(range(min(8, len(self.val))))

    def summary(self) -> str:
        return f"{len(self.train)} comparisons at {self.train.resolution} px"


class ScenesPreferences(ComparisonSet):
    """The preferences of the synthetic data set, whose probabilities are known (see t2ilab.data.scenes.preferences).

    Args:
        size, val_size: comparisons of each split; the held-out ones are pairs.
        images: K, images of a training comparison; 2 are pairs.
        ties: how near two images of which none is preferred lie, in units of utility; 0: there are no ties.
        resolution: pixels.  seed: of the data set, not of the run.
    """

    def __init__(
        self,
        *,
        size: int,
        val_size: int,
        images: int,
        ties: float,
        resolution: int,
        seed: int,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        self.world = scenes
        drawn = partial(scenes.Preferences, resolution=resolution, seed=seed, ties=ties)
        self.train = drawn("train", size=size, images=images)
        self.val = drawn("val", size=val_size)

    def summary(self) -> str:
        return f"scenes/preferences, {super().summary()}"
