"""Scores on the way of a run, and how many steps one curve of them saves over another; for `tables.py`."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

Curve = list[tuple[int, float]]  # steps and scores


def curve(run_dir: Path) -> Curve:
    """The judge's score on the way, made monotone: the nearest rising curve in least squares."""
    with (run_dir / "evaluations.csv").open() as file:
        rows = [(int(row["step"]), float(row["judge/overall"])) for row in csv.DictReader(file)]
    pools: list[list[float]] = []  # mean, number
    for _, score in rows:
        pools.append([score, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, few), (two, more) = pools[-2:]
            pools[-2:] = [[(one * few + two * more) / (few + more), few + more]]
    rising = [mean for mean, number in pools for _ in range(int(number))]
    return [(0, 0.0), *((step, score) for (step, _), score in zip(rows, rising, strict=True))]


def steps_to(level: float, curve: Curve) -> float:
    """Where a rising curve first reaches a level, on lines between its points."""
    for (before, low), (after, high) in pairwise(curve):
        if high >= level:
            return before + (after - before) * (level - low) / (high - low) if high > low else before
    raise ValueError(f"the curve ends at {curve[-1][1]}, below {level}")


def ratios(own: Sequence[Curve], baseline: Sequence[Curve]) -> list[float]:
    """Steps of the baseline over steps of the setting, to the highest score that both reach, of each seed.

    NaN where one of the two never has a prompt right.
    """
    levels = [min(one[-1][1], base[-1][1]) for one, base in zip(own, baseline, strict=True)]
    return [
        steps_to(level, base) / steps_to(level, one) if level > 0 else math.nan
        for level, one, base in zip(levels, own, baseline, strict=True)
    ]
