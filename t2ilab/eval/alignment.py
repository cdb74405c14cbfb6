"""Does the image show what the text says? Asked of the synthetic data set's judge and of CLIP features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.intervals import Interval, bootstrap
from t2ilab.eval.result import TASKS

if TYPE_CHECKING:
    from t2ilab.data.scenes.judge import Judgement


class Prompt(Protocol):
    """A text with a task and a rule that says whether an image shows it (t2ilab.data.scenes.prompts)."""

    @property
    def text(self) -> str:
        """What the image shall show."""
        ...

    @property
    def task(self) -> str:
        """One of result.TASKS, or any other name."""
        ...

    def passed(self, judgement: Judgement) -> bool:
        """Whether the judged image shows what the text asks for."""
        ...


class Judge(Protocol):
    """Reads images without knowing the text; the module t2ilab.data.scenes is one."""

    def judge_batch(self, images: Tensor) -> Sequence[Judgement]:
        """What is in each of the uint8 images (n, 3, h, w)."""
        ...


class FeatureExtractor(Protocol):
    """Two towers into one space, for instance the built-in CLIP. A `digest` attribute names its weights."""

    def images(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) to features (n, d)."""
        ...

    def texts(self, texts: list[str]) -> Tensor:
        """n texts to features (n, d)."""
        ...


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """100 max(cos(image, text), 0) for each pair of features, (n,).

    The value depends on the network: name it beside the number. Source: Hessel et al. 2021, arXiv 2104.08718,
    with torchmetrics' factor of 100.
    """
    if images.shape != texts.shape:
        raise ValueError(
            f"a score needs pairs of features, got {tuple(images.shape)} and {tuple(texts.shape)}"
        )
    return 100 * torch.nn.functional.cosine_similarity(images.double(), texts.double(), dim=1).clamp_min(0)


def task_order(tasks: Sequence[str]) -> list[str]:
    """The six GenEval tasks in their order, then any other in order of appearance."""
    found = dict.fromkeys(tasks)
    return [task for task in TASKS if task in found] + [task for task in found if task not in TASKS]


def judge_scores(scores: np.ndarray, tasks: Sequence[str], *, seed: int = 0) -> dict[str, Interval]:
    """Share of passed images: `overall` (unweighted mean of the task means) and one entry per task.

    Args:
        scores: per prompt the share of its copies that passed, (n,).
        tasks: the task of each prompt.
    """
    names = np.asarray(tasks)
    order = task_order(tasks)
    by_order = np.concatenate([np.flatnonzero(names == task) for task in order])
    result = {"overall": bootstrap(scores[by_order], names[by_order].tolist(), seed=seed)}
    for task in order:
        result[task] = bootstrap(scores[names == task], seed=seed)
    return result
