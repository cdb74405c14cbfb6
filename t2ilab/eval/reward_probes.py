"""What a reward follows beside preferences, and how right it is in expectation over known odds.

Scores r (n, K) of comparisons; `odds` (n, K, K) are the probabilities that image i is preferred to image j, where
somebody knows them (a tie has what is left).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.intervals import bootstrap, quantile
from t2ilab.eval.result import Metric

MORE = 1.5  # times the saturation that an image has


def expected_accuracy(
    scores: Tensor, odds: Tensor, names: tuple[str, str] = ("expected_accuracy", "expected_best")
) -> dict[str, Metric]:
    """`reward/expected_accuracy` beside `reward/expected_best`: of decisions drawn from the odds, not of one draw.

    sum p_ij [r_i > r_j] / sum p_ij over the ordered pairs (i, j) of every comparison, equal scores by half; the best
    guess of each pair has max(p_ij, p_ji) in place of it. The interval is that of a ratio of means over comparisons.

    Args:
        names: of both.
    """
    apart = ~torch.eye(scores.shape[1], dtype=torch.bool)
    p = odds.double() * apart
    right = 0.5 + 0.5 * (scores[:, :, None] - scores[:, None]).sign().double()
    mass = p.sum((1, 2)).numpy()
    found = (p * right).sum((1, 2)).numpy()
    best = (torch.maximum(p, p.transpose(1, 2)).sum((1, 2)) / 2).numpy()
    value, n = float(found.sum() / mass.sum()), len(mass)
    half = quantile() * float((found - value * mass).std()) / (float(mass.mean()) * math.sqrt(n))
    note = (
        "expected share of decided pairs in the right order, of known odds; ratio of means over comparisons"
    )
    return {
        f"reward/{names[0]}": Metric(
            value, max(0.0, value - half), min(1.0, value + half), n, note, "share", True
        ),
        f"reward/{names[1]}": Metric(
            float(best.sum() / mass.sum()), None, None, n, "the largest of it that there is", "share"
        ),
    }


def position_bias(scores: Tensor, ranks: Tensor) -> Metric:
    """How much more often the first image of a pair has the larger score than it was preferred, in [-1, 1].

    0 is what a model that sees one image at a time should have; another value says that the data are not.
    """
    decided = (ranks[:, 0] >= 0) & (ranks[:, 1] >= 0) & (ranks[:, 0] != ranks[:, 1])
    first = 0.5 + 0.5 * (scores[:, 0] - scores[:, 1]).sign()[decided]
    gap = first.double() - (ranks[:, 0] < ranks[:, 1])[decided].double()
    return _mean(
        gap, "share scored above minus share preferred, of first images; bootstrap over pairs", "pairs"
    )


def length_bias(scores: Tensor, ranks: Tensor, prompts: list[str]) -> Metric:
    """Rank correlation (Spearman) of a prompt's length in characters with the mean score of its images."""
    from scipy.stats import spearmanr

    lengths = np.array([len(prompt) for prompt in prompts])
    there = (ranks >= 0).double()
    means = ((scores * there).sum(1) / there.sum(1)).numpy()
    value = 0.0 if np.ptp(lengths) == 0 or np.ptp(means) == 0 else float(spearmanr(lengths, means).statistic)
    return Metric(value, None, None, len(prompts), "Spearman's correlation of prompt length and score")


def saturation_bias(before: Tensor, after: Tensor, std: float) -> Metric:
    """How much a score rises when nothing but the image's saturation does, in stds of scores.

    Args:
        before, after: scores (n,) of images and of what `more_saturated` makes of them.
        std: of all scores.
    """
    gap = (after - before).double() / std
    return _mean(gap, f"rise of the score at {MORE} times the saturation, in its std; bootstrap", "images")


def more_saturated(images: Tensor) -> Tensor:
    """Images (..., 3, h, w) in [0, 1] with colours MORE times as far from grey, cut to the range."""
    grey = images.mean(-3, keepdim=True)
    return (grey + MORE * (images - grey)).clamp(0, 1)


def by_uncertainty(differences: Tensor, spread: Tensor) -> dict[str, Metric]:
    """Accuracy on the half of the decided pairs of which a model is surer, and on the other half.

    Args:
        differences: winner minus loser, (n,).
        spread: std of each, (n,).
    """
    right = 0.5 + 0.5 * differences.sign().double()
    order = spread.argsort()
    halves = {"sure": order[: len(order) // 2], "unsure": order[len(order) // 2 :]}
    return {
        f"reward/accuracy_{name}": _mean(
            right[rows], f"of the {name} half of pairs; bootstrap", "pairs", "share"
        )
        for name, rows in halves.items()
        if len(rows)
    }


def _mean(values: Tensor, note: str, what: str, unit: str = "") -> Metric:
    found = bootstrap(values.numpy(), what=what)
    return Metric(found.value, found.low, found.high, found.n, note, unit)
