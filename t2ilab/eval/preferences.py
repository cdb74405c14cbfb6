"""How well scores predict decided comparisons: accuracy, calibration, and the best that can be reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.eval.intervals import wilson
from t2ilab.eval.result import Metric

BINS = 10
RANGE = (1e-4, 1e4)  # of inverse temperatures


@dataclass(frozen=True)
class Calibration:
    """What sigmoid(difference / T) says of decided pairs.

    Attributes:
        temperature: T with the least log loss; below 1 the scores are too timid.
        nll, nll_raw: the log loss at T and at T = 1, nats.
        ece: expected calibration error at T: the mean distance of confidence and accuracy over ten bins of [0.5, 1].
    """

    temperature: float
    nll: float
    nll_raw: float
    ece: float

    @classmethod
    def of(cls, differences: Tensor) -> Calibration:
        """Of the differences winner minus loser, (n,)."""
        d = differences.double()
        temperature = fitted_temperature(d)
        return cls(
            temperature,
            float(F.softplus(-d / temperature).mean()),
            float(F.softplus(-d).mean()),
            calibration_error(d / temperature),
        )


def fitted_temperature(differences: Tensor) -> float:
    """The T > 0 with the least mean of -ln sigmoid(d / T), by bisection of the derivative in 1 / T, which is convex.

    Scores that are never wrong have none: the smallest of the range is returned, and the largest for scores that are
    no better than chance.
    """
    low, high = (math.log(end) for end in RANGE)

    def slope(log_inverse: float) -> float:
        return float(-(differences * torch.sigmoid(-differences * math.exp(log_inverse))).mean())

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) <= 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def calibration_error(logits: Tensor) -> float:
    """Sum over bins of share |accuracy - confidence|, confidence = sigmoid(|logit|) in [0.5, 1]."""
    confidence = torch.sigmoid(logits.abs())
    right = 0.5 + 0.5 * logits.sign()
    place = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=logits.dtype).index_add(0, place, right - confidence)
    return float(gap.abs().sum() / len(logits))


def preference_metrics(differences: Tensor, best_accuracy: float | None) -> dict[str, Metric]:
    """The metrics of held-out decided pairs.

    Args:
        differences: score of the winner minus score of the loser, (n,).
        best_accuracy: the largest that any model can expect, where it is known.
    """
    n = len(differences)
    right = float((0.5 + 0.5 * differences.sign()).sum())
    low, high = wilson(right, n)
    found = {
        "reward/accuracy": Metric(
            right / n,
            low,
            high,
            n,
            "share of decided held-out pairs in the right order; Wilson",
            "share",
            True,
        )
    }
    if best_accuracy is not None:
        found["reward/best_accuracy"] = Metric(
            best_accuracy, None, None, n, "the largest that any model can expect, of known odds", "share"
        )
    fit = Calibration.of(differences)
    notes = {
        "nll": (fit.nll, "log loss of sigmoid(difference / temperature)", False),
        "nll_raw": (fit.nll_raw, "log loss at temperature 1", False),
        "ece": (fit.ece, "expected calibration error, ten bins, at the temperature", False),
        "temperature": (fit.temperature, "fitted on the same pairs", None),
    }
    return found | {
        f"reward/{name}": Metric(value, None, None, n, note, "", better)
        for name, (value, note, better) in notes.items()
    }
