"""The figure of a distilled student: what it and its teacher reach with how many evaluations of the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2ilab.eval.curves import metric_series
from t2ilab.eval.grid import read_grid
from t2ilab.eval.result import Metric
from t2ilab.eval.svg import Axis, Series, line_chart

KEY = re.compile(r"(teacher/)?nfe/(\w+)@(\d+)$")
PANELS = {
    "judge": Axis("prompt accuracy", percent=True),
    "fd_clip": Axis("Frechet distance"),
    "diversity": Axis("diversity", zero=True),
    "sharpness": Axis("energy at high frequencies"),
    "seconds": Axis("seconds per image", log=True),
}
LINES = (("teacher/", "teacher", "before"), ("", "student", "c1"))


@dataclass(frozen=True)
class Strip:
    """Images of one prompt by one model, and the number of steps of each."""

    prompt: str
    who: str
    images: list[np.ndarray]
    steps: list[int]


def few_steps_images(path: Path | None) -> list[Strip]:
    """What the grid of a distilled student shows, teacher and student in turn; nothing where there is none."""
    if path is None or not path.is_file():
        return []
    grid = read_grid(path)
    steps, prompts = grid.info["steps"], grid.info["prompts"]
    names = [(prompt, who) for prompt in prompts for who in ("teacher", "student")]
    rows = grid.images.reshape(len(names), len(steps), *grid.images.shape[1:])
    return [Strip(prompt, who, list(row), steps) for (prompt, who), row in zip(names, rows, strict=True)]


def few_steps_charts(metrics: Mapping[str, Metric]) -> list[tuple[str, str]]:
    """(name, SVG) of every quantity of PANELS that was measured at several steps, teacher and student in each."""
    found = {match.groups(""): metric for key, metric in metrics.items() if (match := KEY.match(key))}
    charts = []
    for name, axis in PANELS.items():
        lines = [_line(found, prefix, name, label, color) for prefix, label, color in LINES]
        drawn = [line for line in lines if line.x]
        ticks = sorted({x for line in drawn for x in line.x})
        if drawn:
            across = Axis("network evaluations per image", log=True, ticks=ticks)
            charts.append((axis.label, line_chart(drawn, across, axis)))
    return charts


def _line(found: Mapping[tuple[str, ...], Metric], prefix: str, name: str, label: str, color: str) -> Series:
    """One model's line of a quantity, against what it evaluates at each number of steps."""
    steps = sorted(int(count) for who, what, count in found if (who, what) == (prefix, name))
    metrics = [found[prefix, name, str(count)] for count in steps]
    across = [found[prefix, "evaluations", str(count)].value for count in steps]
    return metric_series(across, metrics, label, color)
