"""What an evaluation returns: metrics with intervals, the outcome of every prompt, examples, and its making.

The JSON form is one object: `{key: {value, low, high, n, method, unit, higher_is_better}, ..., "meta":
{...}}`. `meta` says what the numbers depend on (sampler, guidance, seeds, extractor digest, versions) and
carries the per-prompt outcomes, so that two evaluations can later be compared pair by pair.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2ilab.files import whole_file

if TYPE_CHECKING:
    from rich.table import Table

TASKS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
BY_CLIP = ("fd_clip", "kid_clip", "clip_score", "diversity")
_FORMAT = 1


@dataclass(frozen=True)
class Metric:
    """One number that can be trusted as far as its interval says.

    Attributes:
        value: the estimate.
        low, high: 95 % interval; None where there is none.
        n: independent units behind the number (prompts, images), not network evaluations.
        method: how the estimate and its interval were made, in words.
        unit: "share" (shown in percent), or what is printed behind the number.
        higher_is_better: None where neither is.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str
    unit: str = ""
    higher_is_better: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinities and NaN become null, which JSON can hold."""
        return {
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "n": self.n,
            "method": self.method,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Metric:
        """The inverse of `to_json`; a null value is NaN."""
        value = math.nan if data["value"] is None else float(data["value"])
        return Metric(
            value=value,
            low=data["low"],
            high=data["high"],
            n=int(data["n"]),
            method=str(data["method"]),
            unit=str(data.get("unit", "")),
            higher_is_better=data.get("higher_is_better"),
        )

    def text(self, interval: bool = True) -> str:
        """For people: `71.2 % (68.0 to 74.1)`."""
        number = self.number(self.value)
        if not interval or self.low is None or self.high is None:
            return number
        return f"{number} ({self.number(self.low, False)} to {self.number(self.high, False)})"

    def limits(self) -> str:
        """The interval alone: `68.0 .. 74.1`."""
        if self.low is None or self.high is None:
            return "-"
        return f"{self.number(self.low, False)} .. {self.number(self.high, False)}"

    def number(self, value: float, with_unit: bool = True) -> str:
        """Any number in this metric's unit and digits."""
        if value is None or not math.isfinite(value):
            return "-"
        if self.unit == "share":
            return f"{100 * value:.1f}" + (" %" if with_unit else "")
        return significant(value) + (f" {self.unit}" if with_unit and self.unit else "")


def significant(value: float) -> str:
    """A number with three significant digits and no exponent for everyday sizes."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = 2 - math.floor(math.log10(abs(value)))
    if places > 6:
        return f"{value:.2g}"
    return f"{value:,.{max(0, places)}f}"


@dataclass(frozen=True)
class Outcomes:
    """What each unit of a metric got: the material of paired comparisons.

    Attributes:
        values: one number per prompt (or image), copies averaged.
        groups: the task of each, or None.
        names: the prompt of each, or None.
    """

    values: np.ndarray
    groups: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Values are rounded to 6 significant digits, which is far below any interval."""
        return {
            "values": [float(f"{v:.6g}") for v in self.values],
            "groups": None if self.groups is None else list(self.groups),
            "names": None if self.names is None else list(self.names),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcomes:
        """The inverse of `to_json`."""
        groups, names = data.get("groups"), data.get("names")
        return Outcomes(
            np.asarray(data["values"], dtype=np.float64),
            None if groups is None else tuple(groups),
            None if names is None else tuple(names),
        )


@dataclass(frozen=True)
class Example:
    """One prompt with its images, for people to look at.

    Attributes:
        images: one per copy, uint8 (h, w, 3).
        passed: what the judge said of each.
        seen: what the judge saw in each, in words.
        score: share of copies that passed.
    """

    suite: str
    task: str
    prompt: str
    images: tuple[np.ndarray, ...]
    passed: tuple[bool, ...]
    seen: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Stratum:
    """The held-out loss at the times between `low` and `high`."""

    low: float
    high: float
    loss: Metric


@dataclass(frozen=True)
class Evaluation(Mapping[str, Metric]):
    """Metrics by key, in the order in which they are shown.

    Examples and strata are for the report; the JSON form leaves them out.
    """

    metrics: dict[str, Metric]
    meta: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    strata: tuple[Stratum, ...] = ()

    def __getitem__(self, key: str) -> Metric:
        return self.metrics[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def scalars(self) -> dict[str, float]:
        """Only the values, for a logger."""
        return {key: metric.value for key, metric in self.metrics.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but the example images and the strata."""
        outcomes = {key: value.to_json() for key, value in self.outcomes.items()}
        meta = {"format": _FORMAT, **self.meta, "outcomes": outcomes}
        return {**{key: metric.to_json() for key, metric in self.metrics.items()}, "meta": meta}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`.

        Raises:
            ValueError: this is not an evaluation, or one of a newer format.
        """
        meta = dict(data.get("meta") or {})
        if meta.pop("format", None) != _FORMAT:
            found = (data.get("meta") or {}).get("format")
            raise ValueError(
                f"expected an evaluation of format {_FORMAT}, found format {found}: evaluate again"
            )
        outcomes = {key: Outcomes.from_json(value) for key, value in meta.pop("outcomes", {}).items()}
        metrics = {key: Metric.from_json(value) for key, value in data.items() if key != "meta"}
        return Evaluation(metrics, meta, outcomes)

    def save(self, path: str | Path) -> Path:
        """Writes `evaluation.json`; a reader sees the old file or the whole new one, never a half."""
        path = Path(path)
        with whole_file(path) as temporary:
            text = json.dumps(self.to_json(), indent=1, allow_nan=False, default=_plain)
            temporary.write_text(text + "\n")
        return path

    @staticmethod
    def load(path: str | Path) -> Evaluation:
        """Reads what `save` wrote."""
        try:
            data = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not an evaluation: {error}") from error
        return Evaluation.from_json(data)

    def by_clip(self) -> list[str]:
        """The metrics that are read off the features of the network that measures."""
        return [key for key in BY_CLIP if key in self]

    def table(self, title: str = "Evaluation", keys: Collection[str] | None = None) -> Table:
        """For the terminal: metric, value, 95 % interval, n; of `keys`, or of all."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for name in ("value", "95 % interval", "n"):
            table.add_column(name, justify="right", no_wrap=True)
        for key, metric in self.metrics.items():
            if keys is not None and key not in keys:
                continue
            style = "bold" if key.endswith("/overall") else ""
            table.add_row(key, metric.number(metric.value), metric.limits(), f"{metric.n:,}", style=style)
        return table


def show(evaluation: Evaluation, title: str = "Evaluation", caution: str = "") -> None:
    """Prints the table of an evaluation to the terminal.

    Args:
        caution: what to know before the numbers of the network that measures are believed: they come apart then.
    """
    from rich.console import Console

    apart = evaluation.by_clip() if caution else []
    shown = [key for key in evaluation if key not in apart and ("nfe/" not in key or "nfe/judge@" in key)]
    Console().print(evaluation.table(title, shown))
    if apart:
        Console().print(evaluation.table(caution.partition(";")[0], apart))
        print(f"note: {caution}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
