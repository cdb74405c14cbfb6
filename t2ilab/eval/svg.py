"""Small line charts as inline SVG that take their colours from the page, so that light and dark both suit.

Marks carry classes (`c1` .. `c6`, `faint`), the page's style sheet holds the colours; every number is also
reachable as a tooltip. Written by hand because a chart here is forty elements, and a plotting library would
bring its own fonts, colours and identifiers into the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

_MARGIN_LEFT, _MARGIN_TOP, _MARGIN_BOTTOM = 50, 12, 42
_WIDTH, _HEIGHT = 480, 270
_LABEL_HEIGHT = 15
_MOST_POINTS = 300
_HOVERS = 60  # points of a line that tell their value


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        x, y: numbers, equally many.
        name: printed at the end of the line; empty for none.
        color: class of the page's palette, "c1" .. "c6" or "before".
        low, high: interval at each point.
        points: mark each point (few points), else only the line.
        faint: the raw values behind a smoothed line.
    """

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    color: str = "c1"
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    points: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """What stands along an axis.

    Attributes:
        label: quantity and unit.
        log: logarithmic.
        ticks: positions; None for round ones.
        percent: shares are printed as percent, and the axis spans 0 to 1.
        zero: the axis starts at zero.
        span: both ends of the axis; None for those of the values.
        marks: words at positions along a horizontal axis, each with a line across the chart.
    """

    label: str
    log: bool = False
    ticks: Sequence[float] | None = None
    percent: bool = False
    zero: bool = False
    span: tuple[float, float] | None = None
    marks: Mapping[int, str] = field(default_factory=dict)


def line_chart(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """An SVG element with lines, axes and labels at the line ends; empty where there is nothing to draw."""
    series = [thinned(s) for s in series if len(s.x)]
    if not series:
        return ""
    names = [s.name for s in series if s.name]
    right = 14 + (9 + 6.6 * max(map(len, names)) if names else 0)
    limits = [v for s in series for part in (s.y, s.low or (), s.high or ()) for v in part]
    up = _Scale(y, limits, _HEIGHT - _MARGIN_BOTTOM, _MARGIN_TOP)
    longest = max((len(tick_text(tick, y.percent)) for tick in up.ticks), default=0)
    left = max(_MARGIN_LEFT, 28 + 6.5 * longest)  # the label of the axis, then its ticks
    across = _Scale(x, [v for s in series for v in s.x], left, _WIDTH - right)
    parts = [*_grid(across, up, x, y), *(_draw(s, across, up) for s in series)]
    parts += _end_labels([s for s in series if s.name], across, up)
    title = escape(f"{y.label} against {x.label}")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        + "".join(parts)
        + "</svg>"
    )


def thinned(series: Series) -> Series:
    """At most 300 points: neighbours are averaged, the first and the last group keep their place."""
    if len(series.x) <= _MOST_POINTS:
        return series
    groups = np.array_split(np.arange(len(series.x)), _MOST_POINTS)
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    return Series(
        [float(x[g].mean()) for g in groups],
        [float(y[g].mean()) for g in groups],
        series.name,
        series.color,
        faint=series.faint,
    )


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with their 2 and 5 multiples where there are few of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**p for p in powers for m in multiples]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) >= 3:
            break
    return ticks[:: max(1, len(ticks) // 6)]


def tick_text(value: float, percent: bool = False) -> str:
    """Short: 0.25, 1.5k, 2M, 1e-5; shares as percent."""
    if percent:
        return f"{100 * value:.0f}%"
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.6g}{unit}"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < size < 1e-3 else f"{value:.4g}"


class _Scale:
    """From values to positions on the page."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not axis.log)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if axis.percent or axis.span:
            low, high = axis.span or (0.0, 1.0)
        if axis.zero:
            low = min(low, 0.0)
        if high <= low:
            low, high = (low / 2, low * 2) if axis.log and low > 0 else (low - 0.5, low + 0.5)
        self.log, self.start, self.end = axis.log, start, end
        self.low, self.high = (math.log(low), math.log(high)) if axis.log else (low, high)
        if not axis.percent and axis.ticks is None and start > end:  # air above and below lines
            air = 0.04 * (self.high - self.low)
            self.low, self.high = self.low - (0 if axis.zero else air), self.high + air
        bounds = (math.exp(self.low), math.exp(self.high)) if axis.log else (self.low, self.high)
        if axis.ticks is not None:
            self.ticks = list(axis.ticks)
        elif axis.percent:
            self.ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
        else:
            self.ticks = log_ticks(*bounds) if axis.log else round_ticks(*bounds)

    def __call__(self, value: float) -> float:
        if self.log:
            value = math.log(value) if value > 0 else self.low
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    left, right, bottom, middle = across.start, across.end, up.start, (up.start + up.end) / 2
    parts = []
    for tick in up.ticks:
        at = up(tick)
        parts.append(_line("grid", left, right, at, at))
        parts.append(_text("tick", tick_text(tick, y.percent), f'x="{left - 8}" y="{at + 3.5}"', "end"))
    for tick in across.ticks:
        at = across(tick)
        parts.append(_line("axis", at, at, bottom, bottom + 4))
        parts.append(_text("tick", tick_text(tick, x.percent), f'x="{at}" y="{bottom + 17}"'))
    for place, word in x.marks.items():
        at = across(place)
        parts.append(_line("mark", at, at, bottom, up.end))
        parts.append(_text("tick", word, f'x="{at + 4:g}" y="{up.end + 9:g}"', "start"))
    parts.append(_line("axis", left, right, bottom, bottom))
    parts.append(_text("label", x.label, f'x="{(left + right) / 2:.1f}" y="{bottom + 36}"'))
    parts.append(_text("label", y.label, f'transform="translate(12 {middle}) rotate(-90)"'))
    return parts


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" x2="{x2:g}" y1="{y1:g}" y2="{y2:g}"/>'


def _text(kind: str, words: str, place: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{escape(words)}</text>'


def _draw(series: Series, across: _Scale, up: _Scale) -> str:
    places = [(across(a), up(b)) for a, b in _finite(series)]
    path = "M" + "L".join(f"{a} {b}" for a, b in places)
    parts = [f'<path class="line{" faint" if series.faint else ""}" d="{path}"/>'] if len(places) > 1 else []
    if series.low is not None and series.high is not None:
        for a, low, high in zip(series.x, series.low, series.high, strict=True):
            parts.append(_line("whisker", across(a), across(a), up(low), up(high)))
    if not series.faint:
        marked = series.points or len(places) == 1
        kind, every = ("point", 1) if marked else ("hover", max(1, len(places) // _HOVERS))
        told = list(zip(places, _finite(series), strict=True))
        for (a, b), (where, value) in dict.fromkeys([*told[::every], *told[-1:]]):
            note = escape(f"{series.name + ': ' if series.name else ''}{value:.4g} at {where:g}")
            parts.append(f'<circle class="{kind}" cx="{a}" cy="{b}" r="4"><title>{note}</title></circle>')
    return f'<g class="{series.color}">{"".join(parts)}</g>'


def _finite(series: Series) -> list[tuple[float, float]]:
    """The (x, y) of a line that are drawn."""
    return [(a, b) for a, b in zip(series.x, series.y, strict=True) if math.isfinite(b)]


def _end_labels(series: Sequence[Series], across: _Scale, up: _Scale) -> list[str]:
    """Names at the right ends, pushed apart where lines end close together."""
    ends = sorted(((up(s.y[-1]), s) for s in series), key=lambda end: end[0])
    places: list[float] = []
    for at, _ in ends:
        places.append(max(at, places[-1] + _LABEL_HEIGHT) if places else at)
    overflow = places[-1] - up.start if places else 0.0
    if overflow > 0:
        places = [place - overflow for place in places]
    return [
        f'<text class="name {s.color}" x="{across.end + 8}" y="{round(place + 4, 1)}">{escape(s.name)}</text>'
        for place, (_, s) in zip(places, ends, strict=True)
    ]
