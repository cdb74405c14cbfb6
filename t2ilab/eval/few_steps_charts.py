"""The figure of a distilled student: what it and its teacher reach with how many evaluations of the network."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    return Series(
        across,
        [metric.value for metric in metrics],
        label,
        color,
        low=[metric.value if metric.low is None else metric.low for metric in metrics],
        high=[metric.value if metric.high is None else metric.high for metric in metrics],
        points=True,
    )
