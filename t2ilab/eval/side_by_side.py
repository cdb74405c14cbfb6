"""Several runs beside each other: what was measured of each, differences from the first, curves over each other.

Where two runs asked the same prompts with the same noise, each prompt is compared with itself (see compare.py).
Numbers that were measured otherwise are not compared: `unlike` says which, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from t2ilab.eval.compare import NO_MODEL, SAME, Change, compare, headlines, signed
from t2ilab.eval.curves import Column, smoothed, wants_log
from t2ilab.eval.result import Evaluation, Metric
from t2ilab.eval.runs import Run, chosen, differing, same_runs, text_of
from t2ilab.eval.svg import Axis, Series, line_chart

if TYPE_CHECKING:
    from rich.table import Table

COLORS = 6  # c1 .. c6 of the style sheet
METRICS_OF = {  # what an evaluation must share for these metrics to mean the same; by their beginnings
    "features_digest": ("fd_", "kid_", "clip_score", "diversity"),
    "reference_digest": ("fd_", "kid_"),
    "heldout": ("loss/",),
    "prompts_digest": ("judge/", "compose/", "clip_score", "diversity"),
}
CURVES = {  # column of metrics.csv or evaluations.csv -> title and unit
    "judge/overall": ("Prompt accuracy over training", "prompt accuracy"),
    "train/loss": ("Training loss", "loss"),
    "loss/heldout": ("Held-out loss", "loss"),
    "train/grad_norm": ("Gradient norm before clipping", "norm"),
    "train/lr": ("Learning rate", "rate"),
    "train/images_per_s": ("Speed", "images per second"),
}


@dataclass(frozen=True)
class SideBySide:
    """Runs held against the first of them.

    Attributes:
        changes: by the name of each run but the first.
        options: the options that differ, with the value in each run.
        notes: what was not measured alike, and what follows for the table.
        same: names of runs that are the same run.
    """

    runs: Sequence[Run]
    changes: dict[str, list[Change]]
    options: dict[str, list[Any]]
    notes: list[str]
    same: list[tuple[str, ...]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> SideBySide:
        """The comparison of two runs or more."""
        first = runs[0]
        notes: list[str] = []
        changes: dict[str, list[Change]] = {}
        for run in runs:
            if run.evaluation is None:
                notes.append(f"{run.name} has no evaluation (it has not come to its end, or draws no images)")
        for run in runs[1:]:
            changes[run.name] = []
            if first.evaluation is not None and run.evaluation is not None:
                told, left_out = unlike(first.evaluation, run.evaluation)
                notes += [f"{first.name} and {run.name}: {line}" for line in told]
                changes[run.name] = [
                    change
                    for change in compare(first.evaluation, run.evaluation)
                    if not change.key.startswith((*NO_MODEL, *left_out))
                ]
        return cls(runs, changes, chosen(runs, differing(runs)), notes, same_runs(runs))

    def keys(self) -> list[str]:
        """The metrics of any run, without those of single tasks and times."""
        found = dict.fromkeys(key for run in self.runs if run.evaluation for key in run.evaluation)
        return [key for key in headlines(found) if not key.startswith(NO_MODEL)]

    def change(self, run: Run, key: str) -> Change | None:
        """The change of a metric from the first run to this one, if there is one."""
        return next((change for change in self.changes.get(run.name, []) if change.key == key), None)

    def sentence(self, title_of: Callable[[str], str]) -> str:
        """What differs beyond its interval, in words, of each run against the first."""
        lines = []
        for run in self.runs[1:]:
            known = [c for c in (self.change(run, key) for key in self.keys()) if c is not None]
            if not known:
                continue
            found = [c for c in known if c.verdict in ("better", "worse")]
            told = ", ".join(f"{title_of(c.key)} {signed(c.difference)} ({c.verdict})" for c in found)
            rest = "no difference is larger than its interval"
            lines.append(f"{run.name} against {self.runs[0].name}: {told or rest}.")
        return " ".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values of everything but the curves."""
        return {
            "baseline": self.runs[0].name,
            "runs": [
                {
                    "name": run.name,
                    "folder": str(run.folder),
                    "steps": run.steps,
                    "value": run.value,
                    "metrics": {
                        k: m.to_json() for k, m in (run.evaluation.metrics if run.evaluation else {}).items()
                    },
                }
                for run in self.runs
            ],
            "options": {
                key: {run.name: value for run, value in zip(self.runs, values, strict=True)}
                for key, values in self.options.items()
            },
            "differences": {
                name: {
                    c.key: {**c.difference.to_json(), "paired": c.paired, "verdict": c.verdict}
                    for c in changes
                }
                for name, changes in self.changes.items()
            },
            "same": [list(names) for names in self.same],
            "notes": self.notes,
        }

    def table(self) -> Table:
        """For the terminal: the metrics down, the runs across, differences from the first in brackets."""
        from rich.table import Table

        result = Table(header_style="bold", pad_edge=False, caption_justify="left")
        result.add_column("metric", no_wrap=True)
        for run in self.runs:
            result.add_column(run.name, justify="right")
        for key in self.keys():
            result.add_row(key, *(self._cell(run, key) for run in self.runs))
        return result

    def _cell(self, run: Run, key: str) -> str:
        metric = run.evaluation.get(key) if run.evaluation else None
        change = self.change(run, key)
        if metric is None:
            return "-"
        return metric.text() + (f"\n{gap_text(change.difference)} {change.verdict}" if change else "")


def gap_text(difference: Metric) -> str:
    """A difference with its interval: `+12.0 % (8.1 to 16.3)`."""
    sign = "+" if difference.value > 0 else ""
    return sign + difference.text()


def unlike(first: Evaluation, other: Evaluation) -> tuple[list[str], tuple[str, ...]]:
    """What was not measured alike, in words, and the beginnings of the metrics that are not compared for it."""
    told: list[str] = []
    left_out: list[str] = []
    for key, option in SAME.items():
        was, now = first.meta.get(key), other.meta.get(key)
        if was == now:
            continue
        apart = METRICS_OF.get(key, ())
        left_out += apart
        what = f"their {key.removesuffix('_digest').replace('_', ' ')} differ (option {option})"
        told.append(what + (f"; not compared: {', '.join(apart)}" if apart else ""))
    if _held_out(first) != _held_out(other):
        left_out.append("loss/")
        told.append("their held-out images differ (option data); not compared: loss/")
    if first.meta.get("predicts") != other.meta.get("predicts"):
        told.append(
            f"the losses are of other targets ({first.meta.get('predicts')}; {other.meta.get('predicts')}) and "
            "are not compared"
        )
    return told, tuple(dict.fromkeys(left_out))


def _held_out(evaluation: Evaluation) -> Any:
    """What the held-out images are known by, if the evaluation says so."""
    return ((evaluation.meta.get("pictures") or {}).get("val") or {}).get("digest")


def curve_charts(runs: Sequence[Run], keys: Sequence[str] = tuple(CURVES)) -> list[tuple[str, str]]:
    """(title, SVG) of each of these quantities that was logged, a line for each run."""
    charts = []
    for key in keys:
        title, unit = CURVES[key]
        series = []
        for number, run in enumerate(runs):
            column = run.columns.get(key) or run.columns.get(f"eval/{key}")
            if column is not None:
                series.append(_series(key, run.name, column, number))
        share = key == "judge/overall"
        if any(len(line.x) > 1 for line in series):
            axis = Axis(unit, percent=share, log=not share and wants_log(series) and "lr" not in key)
            charts.append((title, line_chart(series, Axis("step", zero=True), axis)))
    return charts


def _series(key: str, name: str, column: Column, number: int) -> Series:
    color = f"c{1 + number % COLORS}"
    smooth_it = key in ("train/loss", "train/grad_norm", "train/images_per_s")
    values = smoothed(column) if smooth_it else column.value
    return Series(column.step.tolist(), values.tolist(), name, color, points=len(column.step) < 30)


def option_rows(options: dict[str, list[Any]]) -> list[tuple[str, list[str]]]:
    """The options that differ as text: those of whole parts (their class) first."""
    order = sorted(options, key=lambda key: (not key.endswith("_target_"), key))
    return [(key.removesuffix("._target_"), [text_of(value) for value in options[key]]) for key in order]


def renamed(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs under other names."""
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
