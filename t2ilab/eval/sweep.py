"""The jobs of a sweep as one table: jobs that differ in seeds alone are one row, each number with its interval.

Of several seeds the interval is Student's over the seeds, and the difference from the first row is made seed by
seed where both have the same ones. Of one seed it is the job's own, over prompts, and the difference that of compare.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2ilab.eval.compare import Change, combined, compare, verdict_of
from t2ilab.eval.grid import read_grid
from t2ilab.eval.intervals import over_seeds
from t2ilab.eval.page import data_uri, page, title_of
from t2ilab.eval.result import Metric
from t2ilab.eval.runs import Run, differing, is_seed, read_run, same_runs, shortened, text_of
from t2ilab.eval.side_by_side import curve_charts, gap_text, renamed, unlike
from t2ilab.files import whole_file, write_csv

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("judge/overall", "compose/overall", "fd_clip", "clip_score", "loss/heldout")  # in the terminal
VALUE = "value"  # what a stage without an evaluation returned
MOST_CURVES = 6  # rows of which the curves are drawn
IMAGES = 4  # of each row


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seeds alone.

    Attributes:
        name: what sets it apart, in words.
        options: those that differ within the sweep, seeds left out.
        seeds: the seeds of each job.
    """

    name: str
    options: dict[str, Any]
    runs: Sequence[Run]
    seeds: Sequence[tuple[Any, ...]]

    def metric(self, key: str) -> Metric | None:
        """A metric of the group; None if a job lacks it."""
        found = self.values(key)
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        values = np.array([metric.value for metric in found])
        if np.ptp(values) == 0:  # seeds that agree to the last digit say nothing of others
            method = f"{found[0].method}, of one of {len(found)} seeds that all came out alike"
            return replace(found[0], method=method)
        interval = over_seeds(values)
        low, high = interval.low, interval.high
        if found[0].unit == "share":
            low, high = max(0.0, low), min(1.0, high)
        return Metric(
            interval.value, low, high, interval.n, interval.method, found[0].unit, found[0].higher_is_better
        )

    def values(self, key: str) -> list[Metric]:
        """A metric of every job, or nothing."""
        found = [_metric(run, key) for run in self.runs]
        known = [metric for metric in found if metric is not None and math.isfinite(metric.value)]
        return known if len(known) == len(self.runs) else []


@dataclass(frozen=True)
class Sweep:
    """The jobs of one sweep, in the order of their numbers."""

    folder: Path
    runs: Sequence[Run]

    @cached_property
    def groups(self) -> list[Group]:
        """The rows of the table, in the order of their first jobs."""
        options = differing(self.runs)
        rows: dict[str, list[int]] = {}
        for number in range(len(self.runs)):
            own = {key: values[number] for key, values in options.items() if not is_seed(key)}
            rows.setdefault(repr(own), []).append(number)
        found: list[tuple[dict[str, Any], list[int]]] = []
        for numbers in rows.values():
            own = {key: values[numbers[0]] for key, values in options.items() if not is_seed(key)}
            found.append((_essential(own), numbers))
        names = self._names(found)
        seeds = [
            tuple(values) for values in zip(*(options[key] for key in options if is_seed(key)), strict=True)
        ]
        return [
            Group(name, own, [self.runs[n] for n in numbers], [seeds[n] if seeds else () for n in numbers])
            for name, (own, numbers) in zip(names, found, strict=True)
        ]

    def _names(self, groups: Sequence[tuple[dict[str, Any], list[int]]]) -> list[str]:
        """Of every row the words of its command that others lack; its options, where these leave two rows alike."""
        typed = [_typed(run) for run in self.runs]
        common = set(typed[0]).intersection(*typed)
        names = [
            " ".join(word for word in typed[numbers[0]] if word not in common) or "all jobs"
            for _, numbers in groups
        ]
        if len(set(names)) == len(names):
            return names
        return [
            " ".join(f"{key.removesuffix('._target_')}={text_of(value)}" for key, value in own.items())
            for own, _ in groups
        ]

    @cached_property
    def keys(self) -> list[str]:
        """The metrics of any job, headlines first; what the stage returned where there is none."""
        found = dict.fromkeys(key for run in self.runs if run.evaluation for key in run.evaluation)
        first = [key for key in SHOWN if key in found]
        return [*first, *(key for key in found if key not in first)] or [VALUE]

    @cached_property
    def same(self) -> list[tuple[str, ...]]:
        """Names of jobs that are the same run under other names."""
        return same_runs(self.runs)

    def difference(self, group: Group, key: str) -> Change | None:
        """A row against the first one; None for the first, and where they do not compare."""
        first = self.groups[0]
        before, after = first.metric(key), group.metric(key)
        if group is first or before is None or after is None or not _alike(first, group, key):
            return None
        if len(first.runs) == len(group.runs) == 1 and key != VALUE:
            one, other = first.runs[0].evaluation, group.runs[0].evaluation
            assert one is not None and other is not None
            return next((change for change in compare(one, other) if change.key == key), None)
        value = after.value - before.value
        low, high = combined(before, after, value)
        method, n, pairs = "two independent intervals", min(before.n, after.n), first.seeds == group.seeds
        if pairs and len(group.runs) > 1:
            both = zip(first.values(key), group.values(key), strict=True)
            gaps = np.array([b.value - a.value for a, b in both])
            if np.ptp(gaps) > 1e-12:  # else every seed gained the same, and the combined interval stays
                interval = over_seeds(gaps)
                low, high, n = interval.low, interval.high, interval.n
                method = f"{interval.method}, seed by seed"
        gap = Metric(value, low, high, n, method, after.unit, after.higher_is_better)
        return Change(key, before, after, gap, pairs, verdict_of(gap))

    def table(self) -> Table:
        """For the terminal: a row for each group, its headline metrics, and the first one's difference."""
        from rich.table import Table

        keys = [key for key in self.keys if key in SHOWN or key == VALUE][:2]
        result = Table(header_style="bold", pad_edge=False)
        for name in ("jobs", "options"):
            result.add_column(name, overflow="fold")
        for key in keys:
            result.add_column(title_of(key), justify="right")
        result.add_column("difference from the first", justify="right")
        for group in self.groups:
            metrics = [group.metric(key) for key in keys]
            change = self.difference(group, keys[0])
            result.add_row(
                " ".join(run.name for run in group.runs),
                group.name,
                *("-" if metric is None else metric.text() for metric in metrics),
                "" if change is None else f"{gap_text(change.difference)} {change.verdict}",
            )
        return result

    def notes(self) -> list[str]:
        """What a reader must know beside the table."""
        found = [f"{_and(names)} are the same run under other names" for names in self.same]
        without = [run.name for run in self.runs if _metric(run, self.keys[0]) is None]
        if len(without) == len(self.runs):
            return [*found, "this stage leaves no numbers"]
        found += [f"job {name} has no numbers" for name in without]
        if max(len(group.runs) for group in self.groups) == 1:
            found.append(
                "each row is one seed: its interval is over prompts, and says nothing of other seeds"
            )
        return found

    def write(self) -> tuple[Path, Path]:
        """Writes sweep.csv (a row for each group) and sweep.html into the folder."""
        rows = [self._row(group) for group in self.groups]
        table, html = self.folder / "sweep.csv", self.folder / "sweep.html"
        write_csv(table, rows)
        with whole_file(html) as temporary:
            temporary.write_text(self.render(), encoding="utf-8")
        return table, html

    def _row(self, group: Group) -> dict[str, Any]:
        row: dict[str, Any] = {
            "jobs": " ".join(run.name for run in group.runs),
            "seeds": " ".join(text_of(seed[0]) for seed in group.seeds if seed),
            **{key: text_of(value) for key, value in group.options.items()},
        }
        for key in self.keys:
            metric, change = group.metric(key), self.difference(group, key)
            if metric is not None:
                row |= {key: metric.value, f"{key} low": metric.low, f"{key} high": metric.high}
                row |= {f"{key} method": metric.method}
            if change is not None:
                gap = change.difference
                row |= {f"{key} difference": gap.value, f"{key} difference low": gap.low}
                row |= {f"{key} difference high": gap.high}
        return row

    def render(self) -> str:
        """The page."""
        few = self.groups[:MOST_CURVES]
        curves = renamed([group.runs[0] for group in few], [shortened(group.name) for group in few])
        return page(
            "sweep.html.j2",
            sweep=self,
            groups=self.groups,
            keys=[key for key in self.keys if key in SHOWN or key == VALUE],
            images={group.name: last_images(group.runs[0]) for group in self.groups},
            charts=curve_charts(curves),
            title_of=title_of,
            gap_text=gap_text,
            image=lambda image: data_uri(image, 112),
        )


def read_sweep(folder: Path) -> Sweep | None:
    """The jobs in a sweep's folder, each a run folder; None if there is none."""
    found = [path.parent for path in sorted(folder.rglob("config.yaml")) if not _inner(path.parent, folder)]
    runs = [read_run(path, str(path.relative_to(folder))) for path in found]
    runs.sort(key=lambda run: (0, int(run.name), "") if run.name.isdigit() else (1, 0, run.name))
    return Sweep(folder, runs) if runs else None


def last_images(run: Run) -> list[tuple[str, np.ndarray]]:
    """Prompts and images of the newest preview of a run, the first few."""
    if run.preview is None:
        return []
    grid = read_grid(run.preview)
    return list(zip(grid.captions, grid.images, strict=False))[:IMAGES]


def _metric(run: Run, key: str) -> Metric | None:
    if key == VALUE:
        return None if run.value is None else Metric(run.value, None, None, 1, "what the stage returned")
    return run.evaluation.get(key) if run.evaluation else None


def _alike(first: Group, group: Group, key: str) -> bool:
    """Whether a metric was measured alike in both, and for a loss of the same target."""
    if key == VALUE:
        return True
    one, other = first.runs[0].evaluation, group.runs[0].evaluation
    assert one is not None and other is not None
    same_target = one.meta.get("predicts") == other.meta.get("predicts")
    return not key.startswith(unlike(one, other)[1]) and (same_target or not key.startswith("loss/"))


def _essential(options: dict[str, Any]) -> dict[str, Any]:
    """Without what only follows from another class: where a part's class differs, its class alone."""
    parts = [key.removesuffix("_target_") for key in options if key.endswith("_target_")]
    return {
        key: value
        for key, value in options.items()
        if key.endswith("_target_") or not any(key.startswith(part) for part in parts)
    }


def _typed(run: Run) -> list[str]:
    """The overrides of a run's command, without its seeds and folder."""
    words = [word for word in shlex.split(str(run.options.get("command", ""))) if "=" in word]
    return [word for word in words if not is_seed(key := word.partition("=")[0]) and key != "run_dir"]


def _inner(path: Path, folder: Path) -> bool:
    """Whether a folder lies inside another run's folder, as the steps of a chain do."""
    return any((parent / "config.yaml").is_file() for parent in path.parents if parent.is_relative_to(folder))


def _and(names: Sequence[str]) -> str:
    return f"jobs {' and '.join(names)}"
