"""Intervals for means: bootstrap over prompts within tasks, Wilson for shares, pairs for before and after.

The unit that is resampled is the prompt: its copies share the prompt's difficulty, so resampling images
would make intervals too narrow. Everything is seeded numpy, 2,000 resamples in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95  # of every interval
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and how that was made."""

    value: float
    low: float
    high: float
    n: int
    method: str

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """Its two ends; None where `method` says that there is no interval."""
        return (None, None) if "no interval" in self.method else (self.low, self.high)


def quantile() -> float:
    """Two-sided normal quantile of LEVEL, 1.96."""
    return NormalDist().inv_cdf(0.5 + LEVEL / 2)


def bootstrap(
    values: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    what: str = "prompts",
) -> Interval:
    """Percentile bootstrap of the unweighted mean of group means (GenEval's overall), resampled within each group.

    Where every value is 0 or every value is 1 a bootstrap says "no doubt at all", which is false: Wilson's
    interval for that many prompts is given instead. One prompt of each group says nothing of their spread: then
    there is no interval, and `method` says so.

    Args:
        values: one number per prompt, (n,).
        groups: the task of each prompt; None for one group.
        what: the name of the resampled unit, for `method`.
    """
    values = _checked(values)
    parts = _parts(values, groups)
    value = float(np.mean([part.mean() for part in parts]))
    if np.all(values == values[0]) and values[0] in (0.0, 1.0):
        low, high = wilson(float(values.sum()), len(values))
        return Interval(value, low, high, len(values), f"Wilson over {what} (all alike)")
    if max(map(len, parts)) == 1:
        return Interval(value, value, value, len(values), f"no interval: one of the {what} each")
    low, high = _percentiles(parts, resamples, seed)
    strata = "" if groups is None or len(parts) == 1 else f", {len(parts)} strata"
    return Interval(value, low, high, len(values), f"bootstrap over {what}{strata}")


def paired_bootstrap(
    before: np.ndarray,
    after: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    shares: bool = False,
) -> Interval:
    """Interval of mean(after) - mean(before) when both saw the same prompts and the same noise.

    The prompt's difficulty cancels within a pair, so this is much narrower than the difference of two intervals.
    Where all pairs changed alike a bootstrap says "no doubt at all". Pairs that did not change at all, or one of each
    group, say nothing of their spread: then there is no interval, and `method` says so.

    Args:
        shares: the values are shares of 0 to 1; where no pair changed, or every one from 0 to 1 or back, the interval
            is then Wilson's for the share of pairs that did.
    """
    before, after = _checked(before), _checked(after)
    if before.shape != after.shape:
        raise ValueError(f"pairs need equally many values, got {len(before)} before and {len(after)} after")
    parts = _parts(after - before, groups)
    if shares and np.all(after - before == after[0] - before[0]) and abs(after[0] - before[0]) in (0.0, 1.0):
        low, high = wilson(float(abs(after - before).sum()), len(after))  # of the pairs that changed
        sign, alike = after[0] - before[0], "Wilson over pairs (all alike)"
        ends = (-high, high) if sign == 0 else sorted((sign * low, sign * high))
        return Interval(float(sign), ends[0], ends[1], len(after), alike)
    value = float(np.mean([part.mean() for part in parts]))
    if max(map(len, parts)) == 1:
        return Interval(value, value, value, len(before), "no interval: one pair each")
    if not (after - before).any():
        return Interval(0.0, 0.0, 0.0, len(before), "no interval: no pair changed")
    low, high = _percentiles(parts, RESAMPLES, seed)
    return Interval(value, low, high, len(before), "paired bootstrap over prompts")


def over_seeds(values: np.ndarray) -> Interval:
    """Mean of the results of runs that differ in their seeds alone, with Student's interval.

    mean +- t_{k-1} s / sqrt(k), s the std with k - 1; for one run value and ends are the same, and
    `method` says that there is no interval. The width says how far another k seeds would lead, so it holds what
    a bootstrap over the prompts of one run cannot see.
    """
    from scipy.stats import t

    values = _checked(values)
    mean, k = float(values.mean()), len(values)
    if k == 1:
        return Interval(mean, mean, mean, 1, "no interval: one seed")
    half = float(t.ppf(0.5 + LEVEL / 2, k - 1) * values.std(ddof=1) / np.sqrt(k))
    return Interval(mean, mean - half, mean + half, k, f"Student's t over {k} seeds")


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share, always inside [0, 1].

    center (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
    Source: Wilson 1927, JASA 22.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z, p = quantile(), successes / n
    scale = 1 + z * z / n
    center = (p + z * z / (2 * n)) / scale
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else float(center - half)  # exact at the ends, no rounding
    high = 1.0 if successes == n else float(center + half)
    return low, high


def block_counts(blocks: int, resamples: int, seed: int) -> np.ndarray:
    """How often each block is drawn in each resample: (resamples, blocks), rows sum to `blocks`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples).astype(np.float64)


def _percentiles(parts: Sequence[np.ndarray], resamples: int, seed: int) -> tuple[float, float]:
    """Both ends of the percentile interval of the unweighted mean of the means of parts."""
    draws = np.mean([_resampled_means(part, resamples, [seed, k]) for k, part in enumerate(parts)], axis=0)
    low, high = np.quantile(draws, TAILS)
    return float(low), float(high)


def _resampled_means(values: np.ndarray, resamples: int, seed: Sequence[int]) -> np.ndarray:
    rng = np.random.default_rng(list(seed))
    step = max(1, 4_000_000 // len(values))
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = values[rng.integers(0, len(values), (count, len(values)))].mean(axis=1)
    return means


def _parts(values: np.ndarray, groups: Sequence[str] | None) -> list[np.ndarray]:
    if groups is None:
        return [values]
    names = np.asarray(groups)
    if names.shape != values.shape:
        raise ValueError(f"{len(values)} values need as many groups, got {len(names)}")
    return [values[names == name] for name in dict.fromkeys(groups)]


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"an interval needs a list of at least one value, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
    return values
