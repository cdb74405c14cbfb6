"""How a student and its teacher draw at a few steps: the same prompts, the same noise.

For N steps of the student, and with `teacher/` in front for N steps of the teacher, with its guidance, on the same
equation without noise on the way (DDIM, on the linear path Euler):

    nfe/judge@N          prompt accuracy: share of images that show what their prompt asks for
    nfe/fd_clip@N        Frechet distance of images of the captions to the held-out images of these
    nfe/diversity@N      mean distance between the images of a prompt
    nfe/sharpness@N      share of the energy of the images at high frequencies
    nfe/seconds@N        to draw an image, in batches
    nfe/evaluations@N    of the network for an image: guidance takes two a step

`seconds` and `teacher/seconds` are those of both as they draw by themselves. Beside them

    straightness = mean_t |(x_1 - x_0) - dx/dt|^2       along a model's own way on the linear path, per number     (1)
    consistency_error = mean_t |x0^(x_t, t) - x_0|^2 / |x_0|^2      of the student along the teacher's way         (2)

(1) is 0 where one Euler step is exact; (2) is 0 for a perfect consistency function.
Source: Liu et al. 2022, arXiv 2209.03003, eq. 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ilab.core.path import Linear
from t2ilab.core.types import Trajectory
from t2ilab.eval.evaluator import Evaluator, Text
from t2ilab.eval.grid import save_grid
from t2ilab.eval.intervals import bootstrap
from t2ilab.eval.probes import high_frequency
from t2ilab.eval.result import Metric
from t2ilab.measuring.measure import Measure
from t2ilab.objectives.distill.base import even_times
from t2ilab.pipeline import TextToImage
from t2ilab.sampling.student import Student

FINE = 16  # steps of the trajectories of (1) and (2)
SHOWN = 4  # prompts whose images are shown
COPIES = 2  # images of a prompt, without which there is no diversity
NAMES = {
    "judge/overall": "judge",
    "fd_clip": "fd_clip",
    "diversity": "diversity",
    "high_frequency": "sharpness",
}


def few_steps(
    student: TextToImage, measure: Measure, *, teacher: TextToImage, steps: Sequence[int], grid: Path
) -> dict[str, Metric]:
    """The metrics of this file, by the number of steps.

    Args:
        student, teacher: with their own samplers and guidance.
        steps: numbers of steps; empty measures nothing.
        grid: the file of images of both, for the report.
    """
    found: dict[str, Metric] = {}
    if not steps:
        return found
    evaluator, seed = evaluator_of(measure), measure.plan.seed
    shown: dict[tuple[str, int], Tensor] = {}
    texts = measure.data.preview_prompts()
    both = (("", student, student.sampler), ("teacher/", teacher, noise_free(teacher)))
    for prefix, model, sampler in both:
        who = model.with_(batch_size=measure.plan.batch_size)
        for count in (count for count in steps if count > who.guidance.still_steps):
            now = who.with_(sampler=sampler.at(count))
            drawn = measured(now, evaluator, seed)
            found |= {f"{prefix}nfe/{name}@{count}": metric for name, metric in drawn.items()}
            shown[prefix, count] = now(texts[:SHOWN], seed=seed)
        found[f"{prefix}seconds"] = seconds(who, [prompt.text for prompt in prompts_of(evaluator)], seed)
    save_images(grid, shown, texts[:SHOWN])
    way = trajectory(teacher, texts, seed)
    found["consistency_error"] = _metric(consistency_error(student, texts, way), seed)
    if isinstance(student.denoiser.path, Linear):
        own = trajectory(student, texts, seed)
        found["straightness"] = _metric(straightness(own), seed)
        found["teacher/straightness"] = _metric(straightness(way), seed)
    return found


def save_images(path: Path, shown: Mapping[tuple[str, int], Tensor], texts: Sequence[str]) -> None:
    """A grid with a row for each prompt and model, teacher first, and a column for each number of steps."""
    steps = sorted({count for _, count in shown})
    everywhere = [count for count in steps if ("", count) in shown and ("teacher/", count) in shown]
    if not everywhere:
        return
    cells = [
        shown[prefix, count][row]
        for row in range(len(texts))
        for prefix in ("teacher/", "")
        for count in everywhere
    ]
    captions = [
        f"{who}, {count} steps: {text}"
        for text in texts
        for who in ("teacher", "student")
        for count in everywhere
    ]
    info = {"steps": everywhere, "prompts": list(texts)}
    save_grid(path, torch.stack(cells), captions, columns=len(everywhere), info=info)


def evaluator_of(measure: Measure) -> Evaluator:
    """What asks for the images of a few steps: `eval.nfe_per_task` prompts, and the captions of the reference."""
    plan, data = measure.plan, measure.data
    captions = [Text(text) for text in data.preview_prompts()]
    judged = data.world and list(data.world.prompts("test", plan.nfe_per_task, plan.seed))
    return Evaluator(
        {"judge": judged} if judged else {"prompts": captions},
        measure.evaluator.reference,
        measure.evaluator.features,
        judge=data.world,
        samples_per_prompt=COPIES,
        seed=plan.seed,
        batch_size=plan.batch_size,
        probes={"high_frequency": high_frequency},
    )


def prompts_of(evaluator: Evaluator) -> list[Any]:
    """Those of its first suite."""
    return next(iter(evaluator.suites.values()))


def measured(generate: TextToImage, evaluator: Evaluator, seed: int) -> dict[str, Metric]:
    """The metrics of one number of steps, by their names without it."""
    first = generate.trajectory([prompts_of(evaluator)[0].text], seed=seed, rows=[0])  # warms up, too
    spent, images = 0.0, 0

    def sample(prompts: list[str], rows: Tensor) -> Tensor:
        nonlocal spent, images
        began = perf_counter()
        found = generate(prompts, seed=seed, rows=rows.tolist())
        spent, images = spent + perf_counter() - began, images + len(found)
        return found

    metrics = evaluator(sample).metrics
    return {name: metrics[key] for key, name in NAMES.items() if key in metrics} | {
        "seconds": _time(spent / images, images),
        "evaluations": Metric(first.nfe, None, None, 1, "counted", "", False),
    }


def seconds(generate: TextToImage, texts: list[str], seed: int) -> Metric:
    """What an image takes as the model draws by itself, from one batch."""
    texts = texts[: generate.batch_size]
    began = perf_counter()
    generate(texts, seed=seed, rows=list(range(len(texts))))
    return _time((perf_counter() - began) / len(texts), len(texts))


def _time(value: float, images: int) -> Metric:
    return Metric(value, None, None, images, "wall time of drawing, without reading the images", "s", False)


def noise_free(generate: TextToImage) -> Student:
    """DDIM at FINE times spread as those of the model's own sampler."""
    grid = generate.sampler.grid
    if isinstance(generate.sampler, Student):
        return Student("ode", generate.sampler.grid.given).at(FINE)
    times = even_times(FINE, getattr(grid, "shift", 1.0), getattr(grid, "start", 1.0))
    return Student("ode", times)


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
