"""How a student and its teacher draw at a few steps: the same prompts, the same noise.

`nfe/judge@N` is the judge's share for the student at N steps, `teacher/nfe/judge@N` that of the teacher, with its
guidance, on the same equation without noise on the way (DDIM, on the linear path Euler). Beside them

    straightness = mean_t |(x_1 - x_0) - dx/dt|^2       along a model's own way on the linear path, per number     (1)
    consistency_error = mean_t |x0^(x_t, t) - x_0|^2 / |x_0|^2      of the student along the teacher's way         (2)

(1) is 0 where one Euler step is exact; (2) is 0 for a perfect consistency function.
Source: Liu et al. 2022, arXiv 2209.03003, eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from t2ilab.core.path import Linear
from t2ilab.core.types import Trajectory
from t2ilab.eval.intervals import bootstrap
from t2ilab.eval.nfe import NFEPoint, nfe_curve
from t2ilab.eval.result import Metric
from t2ilab.measuring.measure import Measure, draw_all
from t2ilab.objectives.distill.base import even_times
from t2ilab.pipeline import TextToImage
from t2ilab.sampling.student import Student

FINE = 16  # steps of the trajectories of (1) and (2)


def few_steps(
    student: TextToImage, measure: Measure, *, teacher: TextToImage, steps: Sequence[int]
) -> dict[str, Metric]:
    """The metrics of this file, by the number of steps.

    Args:
        student, teacher: with their own samplers and guidance.
        steps: numbers of steps; empty measures nothing.
    """
    found: dict[str, Metric] = {}
    if not steps:
        return found
    for prefix, who, sampler in (("", student, student.sampler), ("teacher/", teacher, noise_free(teacher))):
        for point in _curve(who, measure, sampler, steps):
            if point.quality is not None:
                found[f"{prefix}nfe/judge@{point.steps}"] = point.quality
    texts, seed = measure.data.preview_prompts(), measure.plan.seed
    way = trajectory(teacher, texts, seed)
    found["consistency_error"] = _metric(consistency_error(student, texts, way), seed)
    if isinstance(student.denoiser.path, Linear):
        own = trajectory(student, texts, seed)
        found["straightness"] = _metric(straightness(own), seed)
        found["teacher/straightness"] = _metric(straightness(way), seed)
    return found


def noise_free(generate: TextToImage, steps: int = FINE) -> Student:
    """DDIM at times spread as those of the model's own sampler."""
    grid = generate.sampler.grid
    if isinstance(generate.sampler, Student):
        return Student("ode", generate.sampler.grid.given).at(steps)
    times = even_times(steps, getattr(grid, "shift", 1.0), getattr(grid, "start", 1.0))
    return Student("ode", times)


def _curve(generate: TextToImage, measure: Measure, sampler: Student, steps: Sequence[int]) -> list[NFEPoint]:
    world, plan = measure.data.world, measure.plan
    if world is None:
        return []
    prompts = list(world.prompts("test", plan.nfe_per_task, plan.seed))
    texts = [prompt.text for prompt in prompts]
    generate = generate.with_(batch_size=plan.batch_size)
    possible = [count for count in steps if count > generate.guidance.still_steps]
    return nfe_curve(
        lambda count: draw_all(generate, texts, plan.seed, sampler=sampler.at(count)),
        possible,
        prompts=prompts,
        judge=world,
        seed=plan.seed,
    )


def trajectory(generate: TextToImage, texts: list[str], seed: int) -> tuple[Tensor, Tensor]:
    """Times (FINE + 1,) and states (FINE + 1, B, C, H, W) of a model's own way from noise to data."""
    sampler = noise_free(generate)
    way: Trajectory = generate.with_(sampler=_Kept(sampler)).trajectory(
        texts, seed=seed, rows=list(range(len(texts)))
    )
    return sampler.grid.times(generate.denoiser.path), torch.stack(way.states)


class _Kept:
    """A sampler that keeps all states."""

    def __init__(self, sampler: Student) -> None:
        self.sampler = sampler

    def __call__(self, *args: object, **kwargs: object) -> Trajectory:
        return self.sampler(*args, **kwargs, keep_states=True)  # type: ignore[arg-type]


def straightness(way: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. (1) of every image, (B,)."""
    times, states = way
    spans = (times[:-1] - times[1:]).to(states)
    slopes = (states[:-1] - states[1:]) / spans.view(-1, 1, 1, 1, 1)
    chord = (states[0] - states[-1]) / (times[0] - times[-1]).to(states)
    error = (slopes - chord).square().flatten(2).mean(2)
    return (error * spans[:, None]).sum(0) / spans.sum()


@torch.no_grad()
def consistency_error(student: TextToImage, texts: list[str], way: tuple[Tensor, Tensor]) -> Tensor:
    """Eq. (2) of every image, (B,)."""
    times, states = way
    condition, null = (
        part.to(student.device) for part in (student.conditioner(texts), student.conditioner.null(1))
    )
    denoise = student.guidance.bind(student.denoiser, condition, null)
    ends = torch.stack([denoise(x, float(t)).x0 for x, t in zip(states[:-1], times[:-1], strict=True)])
    return (ends - states[-1]).square().flatten(2).mean(2).mean(0) / states[-1].square().mean()


def _metric(values: Tensor, seed: int) -> Metric:
    each = values.double().cpu().numpy().astype(np.float64)
    return Metric(**asdict(bootstrap(each, seed=seed, what="images")), higher_is_better=False)
