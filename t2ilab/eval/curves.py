"""The charts of a run: its metrics.csv, and the quality of few-step sampling."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2ilab.eval.nfe import NFEPoint
from t2ilab.eval.result import Evaluation, Metric, Stratum
from t2ilab.eval.svg import Axis, Series, line_chart

_BIN = re.compile(r"^train/loss_t(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$")
_RANGE = re.compile(r"^loss/t(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$")
_TIME = Axis("t (0 clean, 1 noise)", ticks=(0.0, 0.25, 0.5, 0.75, 1.0), span=(0.0, 1.0))
_RIVAL = re.compile(r"^train/(\w+)/loss$")


@dataclass(frozen=True)
class Column:
    """One column of metrics.csv, blanks left out, (n,) each."""

    step: np.ndarray
    value: np.ndarray


def read_metrics(path: str | Path) -> dict[str, Column]:
    """All numeric columns by name. A step that was logged twice (a resumed run) counts once, the later row.

    Values that are not finite are left out: they would draw nothing.
    """
    found: dict[str, dict[float, float]] = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            if step is None:
                continue
            for name, text in row.items():
                value = _number(text) if isinstance(text, str) else None
                if name and name != "step" and value is not None:
                    found.setdefault(name, {})[step] = value
    columns = {}
    for name, values in found.items():
        steps = np.array(sorted(values))
        columns[name] = Column(steps, np.array([values[step] for step in steps]))
    return columns


def smooth(values: np.ndarray, half: int) -> np.ndarray:
    """Running mean over `half` values on either side.

    Near the start the window shrinks on both sides, so a steep first descent is not lagged behind; near the
    end only its right side does, so the last value does not jump.
    """
    place = np.arange(len(values))
    left = np.minimum(half, place)
    right = np.minimum(left, len(values) - 1 - place)
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[place + right + 1] - total[place - left]) / (left + right + 1)


def loss_chart(columns: Mapping[str, Column], phases: Mapping[int, str] | None = None) -> str:
    """The training loss, raw and smoothed, and where there are any the held-out loss, those of rivals, and phases."""
    train, held = columns.get("train/loss"), _first(columns, "loss/heldout", "val/loss")
    rivals = [(m[1], column) for name, column in columns.items() if (m := _RIVAL.match(name))]
    series = []
    if train is not None:
        series.append(Series(train.step.tolist(), train.value.tolist(), faint=True))
        name = "train" if held or rivals else ""
        series.append(Series(train.step.tolist(), smoothed(train).tolist(), name=name))
    if held is not None:
        series.append(Series(held.step.tolist(), held.value.tolist(), "held out", "c4", points=True))
    for name, rival in rivals:
        series.append(Series(rival.step.tolist(), smoothed(rival).tolist(), name, "c2"))
    return _losses(series, phases)


def bin_chart(columns: Mapping[str, Column], phases: Mapping[int, str] | None = None) -> str:
    """The smoothed training loss for each range of noise levels, and where phases begin."""
    found = sorted((float(m[1]), name) for name in columns if (m := _BIN.match(name)))
    series = []
    for k, (_, name) in enumerate(found):
        column, label = columns[name], "t " + name.removeprefix("train/loss_t").replace("-", " to ")
        series.append(Series(column.step.tolist(), smoothed(column).tolist(), label, _shade(k, len(found))))
    return _losses(series, phases)


def _losses(series: Sequence[Series], phases: Mapping[int, str] | None) -> str:
    return line_chart(
        series, Axis("step", zero=True, marks=phases or {}), Axis("loss", log=wants_log(series))
    )


def quality_chart(columns: Mapping[str, Column]) -> str:
    """The judge's overall at each evaluation during training."""
    series = []
    for key, name, color in (("judge/overall", "prompts", "c1"), ("compose/overall", "unseen", "c2")):
        column = _first(columns, key)
        if column is not None and len(column.step) > 1:
            series.append(Series(column.step.tolist(), column.value.tolist(), name, color, points=True))
    return line_chart(series, Axis("step", zero=True), Axis("prompt accuracy", percent=True))


def density_chart(density: Mapping[str, Sequence[tuple[float, float]]], steps: Sequence[float] = ()) -> str:
    """How often each phase of training draws each noise level, and as dots the times at which the sampler looks."""
    if not density:
        return ""
    series = []
    for k, (name, curve) in enumerate(density.items()):
        color = _shade(k, len(density)) if len(density) > 1 else "c1"
        label = name if len(density) > 1 or steps else ""
        series.append(Series([t for t, _ in curve], [p for _, p in curve], label, color))
    if steps:
        series.append(Series(sorted(steps), [0.0] * len(steps), "sampler", "c4", points=True))
    return line_chart(series, _TIME, Axis("density", zero=True))


def time_chart(
    evaluation: Evaluation | None, before: Evaluation | None = None, before_name: str = "before"
) -> str:
    """The held-out loss of each stratum of times with its interval, in the middle of the stratum.

    An evaluation that was read from a file has no strata: its ranges (`loss/t0.00-0.25` ...) stand for them.
    """
    series = []
    for found, name, color in (
        (before, before_name, "before"),
        (evaluation, "this run" if before else "", "c1"),
    ):
        strata = [] if found is None else found.strata or _ranges(found)
        if strata:
            middles = [0.5 * (stratum.low + stratum.high) for stratum in strata]
            series.append(metric_series(middles, [stratum.loss for stratum in strata], name, color))
    wide = wants_log(series)
    return line_chart(series, _TIME, Axis("held-out loss", log=wide, zero=not wide))


def _ranges(found: Evaluation) -> list[Stratum]:
    """The ranges of times that have a metric, in rising order."""
    matches = [(m, found[key]) for key in found if (m := _RANGE.match(key))]
    return sorted((Stratum(float(m[1]), float(m[2]), loss) for m, loss in matches), key=lambda s: s.low)


def nfe_quality_chart(points: Sequence[NFEPoint]) -> str:
    """Judge overall with its interval against network evaluations."""
    measured = [(p.nfe, p.quality) for p in points if p.quality is not None]
    if not measured:
        return ""
    series = metric_series([nfe for nfe, _ in measured], [quality for _, quality in measured])
    return line_chart([series], _evaluations(points), Axis("prompt accuracy", percent=True))


def nfe_error_chart(points: Sequence[NFEPoint]) -> str:
    """Relative squared distance from the fine reference solution against network evaluations."""
    measured = [(p.nfe, p.error.value) for p in points if p.error is not None and p.error.value > 0]
    series = Series([nfe for nfe, _ in measured], [e for _, e in measured], points=True)
    return line_chart([series], _evaluations(points), Axis("squared error, relative", log=True))


def metric_series(x: Sequence[float], metrics: Sequence[Metric], name: str = "", color: str = "c1") -> Series:
    """A line of metrics with their intervals."""
    return Series(
        x,
        [metric.value for metric in metrics],
        name,
        color,
        low=[metric.value if metric.low is None else metric.low for metric in metrics],
        high=[metric.value if metric.high is None else metric.high for metric in metrics],
        points=True,
    )


def _evaluations(points: Sequence[NFEPoint]) -> Axis:
    return Axis("network evaluations per image", log=True, ticks=[p.nfe for p in points])


def _shade(k: int, count: int) -> str:
    """The colour of line k of an ordered family, from light to dark."""
    return f"r{1 + round(3 * k / max(1, count - 1))}"


def smoothed(column: Column) -> np.ndarray:
    """The running mean over a fiftieth of the values on either side."""
    return smooth(column.value, max(2, len(column.value) // 50))


def wants_log(series: Sequence[Series]) -> bool:
    """Whether a logarithmic axis serves better: positive values over more than a factor of 5."""
    values = [v for s in series for v in s.y]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 5


def _first(columns: Mapping[str, Column], *names: str) -> Column | None:
    """A metric by its own name or below eval/."""
    for name in names:
        for candidate in (f"eval/{name}", name):
            if candidate in columns:
                return columns[candidate]
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
