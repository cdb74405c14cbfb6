"""Quality against network evaluations: the same prompts and noise, drawn with more and more steps.

Two readings per point: the judge's overall, and the distance of the final latents from a fine reference
solution of the same equation, which is free of sampling noise and shows the order of the sampler. A sampler that
adds noise solves another equation for each number of steps and has the first reading only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from t2ilab.eval.alignment import Judge, Prompt, judge_scores
from t2ilab.eval.intervals import bootstrap
from t2ilab.eval.result import Metric


@dataclass(frozen=True)
class Drawn:
    """Images of all prompts from one sampler setting.

    Attributes:
        latents: final states, (n, C, H, W).
        images: uint8 (n, 3, h, w), or None where no judge reads them.
        nfe: network evaluations per image.
    """

    latents: Tensor
    images: Tensor | None
    nfe: int


@dataclass(frozen=True)
class NFEPoint:
    """One point of the curve.

    Attributes:
        quality: judge overall, or None without a judge.
        error: mean over prompts of |x - x_ref|^2 / mean |x_ref|^2, or None without a reference.
        seconds: wall time per image.
    """

    steps: int
    nfe: int
    quality: Metric | None
    error: Metric | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        metrics = {
            name: getattr(self, name) and getattr(self, name).to_json() for name in ("quality", "error")
        }
        return {**asdict(self), **metrics}

    @staticmethod
    def from_json(data: dict[str, Any]) -> NFEPoint:
        """The inverse of `to_json`."""
        metrics = {name: data[name] and Metric.from_json(data[name]) for name in ("quality", "error")}
        return NFEPoint(data["steps"], data["nfe"], metrics["quality"], metrics["error"], data["seconds"])


def trajectory_error(latents: Tensor, reference: Tensor) -> np.ndarray:
    """|x - x_ref|^2 per image over the mean of |x_ref|^2: 0 if exact, about 2 for unrelated latents."""
    if latents.shape != reference.shape:
        raise ValueError(
            f"latents {tuple(latents.shape)} and reference {tuple(reference.shape)} must have one shape"
        )
    x, x_ref = latents.double().flatten(1).cpu(), reference.double().flatten(1).cpu()
    return ((x - x_ref).square().mean(1) / x_ref.square().mean()).numpy()


def nfe_curve(
    draw: Callable[[int], Drawn],
    steps: Sequence[int],
    *,
    prompts: Sequence[Prompt] | None = None,
    judge: Judge | None = None,
    reference: Tensor | None = None,
    seed: int = 0,
) -> list[NFEPoint]:
    """Draws the same rows with each number of steps.

    Args:
        draw: steps -> images of `prompts`, one each, always from the same noise.
        reference: final latents of a fine solver (for instance Heun with 128 steps) from that noise.
    """
    points = []
    for count in steps:
        start = perf_counter()
        drawn = draw(count)
        seconds = (perf_counter() - start) / len(drawn.latents)
        quality = error = None
        if judge is not None and prompts is not None and drawn.images is not None:
            judged = judge.judge_batch(drawn.images)
            passed = np.array([p.passed(j) for p, j in zip(prompts, judged, strict=True)], dtype=np.float64)
            overall = judge_scores(passed, [p.task for p in prompts], seed=seed)["overall"]
            quality = Metric(**asdict(overall), unit="share", higher_is_better=True)
        if reference is not None:
            interval = bootstrap(trajectory_error(drawn.latents, reference), seed=seed, what="images")
            error = Metric(**asdict(interval), higher_is_better=False)
        points.append(NFEPoint(count, drawn.nfe, quality, error, seconds))
    return points
