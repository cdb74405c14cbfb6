"""Which two times of one trajectory a consistency method compares, t > r, and with which weight.

Sources speak of noise levels s = sigma / alpha of data of std 0.5; latents here have 1, so levels are
doubled. A level is translated to a time of the path by its log SNR, and weights stay those of the levels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.objectives.distill.base import even_times


class Pair(NamedTuple):
    """Times t > r and weights of the rows, (B,) float32."""

    t: Tensor
    r: Tensor
    weight: Tensor


class Levels(ABC):
    """A rule for pairs of times.

    Args:
        shift: of the times that students are drawn at; None for 1.
    """

    def __init__(self, shift: float | None) -> None:
        self.shift = 1.0 if shift is None else shift

    @abstractmethod
    def pairs(self, rng: RowRng, path: Path) -> Pair:
        """The pair of every row, a function of the step and the row."""

    @abstractmethod
    def first(self, path: Path) -> float:
        """The largest time that is drawn, where sampling begins."""

    def sampling(self, steps: int, path: Path) -> tuple[float, ...]:
        """The times of a student with few steps: from the first one on, evenly before the shift."""
        _, *others = even_times(steps, self.shift)
        return (self.first(path), *others)


class EvenLevels(Levels):
    """The grid t = (i + 1) / N, r = i / N, shifted, i even from 0 .. N - 1; weight 1.

    Args:
        count: N, 50 in LCM.
        shift: of training and sampling.
    Source: Luo et al. 2023 (LCM), arXiv 2310.04378, with skipping steps k = 1000 / N.
    """

    def __init__(self, count: int, shift: float | None) -> None:
        super().__init__(shift)
        if count < 1:
            raise ValueError(f"loss.levels.count must be at least 1, got {count}")
        self.count = count

    def pairs(self, rng: RowRng, path: Path) -> Pair:
        place = (rng.uniform("time", dtype=torch.float64) * self.count).floor().clamp(max=self.count - 1)
        t, r = (shift_time((place + part) / self.count, self.shift).float() for part in (1.0, 0.0))
        return Pair(t, r, torch.ones_like(t))

    def first(self, path: Path) -> float:
        return 1.0

    def sampling(self, steps: int, path: Path) -> tuple[float, ...]:
        """Times of the grid, as evenly as it allows."""
        if not 1 <= steps <= self.count:
            raise ValueError(f"loss.steps must be from 1 to loss.levels.count={self.count}, got {steps}")
        places = (-(-self.count * (steps - i) // steps) for i in range(steps))
        return tuple(shift_time(place / self.count, self.shift) for place in places)


Growth = Literal["constant", "root", "double"]


class KarrasLevels(Levels):
    """Neighbours of N(k) noise levels, N growing with the step k of K.

        s_i = (s_min^(1/rho) + i / (N - 1) (s_max^(1/rho) - s_min^(1/rho)))^rho
        constant  N = last
        root      N = ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1        consistency training
        double    N = min(first 2^floor(k / K'), last) + 1,  K' = floor(K / (log2 floor(last / first) + 1))       iCT

    i is even, or falls as the log-normal density of mean and std: P(i) ~ erf((ln s_{i+1} - mean) / (sqrt 2 std)) -
    erf((ln s_i - mean) / (sqrt 2 std)). The lowest level is where the data are.

    Args:
        growth: constant, root or double.
        first, last: N at both ends, as the formulas say.
        total: K, the steps of the run.
        sigma_min, sigma_max, rho: of the levels.
        mean, std: of ln s; None for an even i.
        weighted: weight 1 / (s_{i+1} - s_i) instead of 1.
        shift: of the times that students are drawn at.
    Source: Song et al. 2023, arXiv 2303.01469, algorithms 2 and 3; Song and Dhariwal 2023 (iCT), arXiv 2310.14189.
    """

    def __init__(
        self,
        *,
        growth: Growth,
        first: int,
        last: int,
        total: int,
        sigma_min: float,
        sigma_max: float,
        rho: float,
        mean: float | None,
        std: float | None,
        weighted: bool,
        shift: float | None,
    ) -> None:
        super().__init__(shift)
        if not 2 <= first <= last:
            raise ValueError(f"loss.levels needs 2 <= first <= last, got {first} and {last}")
        if growth not in ("constant", "root", "double"):
            raise ValueError(f"loss.levels.growth must be constant, root or double, got {growth}")
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"loss.levels needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if (mean is None) != (std is None) or not (std is None or std > 0):
            raise ValueError("loss.levels.mean and a positive loss.levels.std go together, or both are null")
        self.growth, self.least, self.most, self.total = growth, first, last, total
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.mean, self.std, self.weighted = mean, std, weighted

    def count(self, step: int) -> int:
        """N(k), the number of levels."""
        low, high = self.least, self.most
        if self.growth == "constant":
            return high
        if self.growth == "root":
            share = min(step / self.total, 1.0)
            return math.ceil(math.sqrt(share * ((high + 1) ** 2 - low**2) + low**2) - 1) + 1
        every = max(1, math.floor(self.total / (math.log2(high // low) + 1)))
        return int(min(low * 2 ** (step // every), high)) + 1

    def levels(self, count: int) -> Tensor:
        """s_0 < ... < s_{N - 1}, float64."""
        ends = (self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho))
        return torch.linspace(*ends, count, dtype=torch.float64) ** self.rho

    def chances(self, count: int) -> Tensor:
        """P(i) of the pair (s_i, s_{i + 1}), (N - 1,) float64."""
        if self.mean is None or self.std is None:
            return torch.full((count - 1,), 1.0 / (count - 1), dtype=torch.float64)
        shares = torch.erf((self.levels(count).log() - self.mean) / (math.sqrt(2) * self.std)).diff()
        return shares / shares.sum()

    def pairs(self, rng: RowRng, path: Path) -> Pair:
        count = self.count(rng.step)
        uniform = rng.uniform("time", dtype=torch.float64)
        edges, levels = (
            self.chances(count).cumsum(0).to(uniform.device),
            self.levels(count).to(uniform.device),
        )
        place = torch.searchsorted(edges, uniform, right=True).clamp(max=count - 2)
        low, high = levels[place], levels[place + 1]
        weight = 1.0 / (high - low) if self.weighted else torch.ones_like(low)
        t, r = time_of(high, path), time_of(low, path)
        return Pair(t.float(), r.float(), weight.float())

    def first(self, path: Path) -> float:
        return last_time(self.sigma_max, path)


class EasyLevels(Levels):
    """ECT: s from a log-normal distribution, and a lower level that comes nearer in stages.

        s' = max(0, s (1 - q^-(stage + 1) (1 + 8 sigmoid(-s / 2))))    with weight 1 / (s - s')

    where s / 2 is the paper's level. In the first stage low levels are compared with the data themselves: ordinary
    denoising.

    Args:
        mean, std: of ln s.
        q: how much nearer in each stage.
        stages: which divide the run evenly.
        total: steps of the run.
        sigma_max: no level is larger.
        shift: of the times that students are drawn at.
    Source: Geng et al. 2024, arXiv 2406.14548.
    """

    def __init__(
        self,
        *,
        mean: float,
        std: float,
        q: float,
        stages: int,
        total: int,
        sigma_max: float,
        shift: float | None,
    ) -> None:
        super().__init__(shift)
        if not (std > 0 and q > 1 and stages >= 1 and sigma_max > 0):
            raise ValueError(
                "loss.levels needs std > 0, q > 1, stages >= 1 and sigma_max > 0, got "
                f"{std}, {q}, {stages} and {sigma_max}"
            )
        self.mean, self.std, self.q, self.stages, self.total = mean, std, q, stages, total
        self.sigma_max = sigma_max

    def stage(self, step: int) -> int:
        """Which stage a step belongs to, from 0."""
        return min(step * self.stages // self.total, self.stages - 1)

    def lower(self, level: Tensor, stage: int) -> Tensor:
        """s' of levels s."""
        gap = self.q ** -(stage + 1) * (1.0 + 8.0 * torch.sigmoid(-0.5 * level))
        return (level * (1.0 - gap)).clamp(min=0.0)

    def pairs(self, rng: RowRng, path: Path) -> Pair:
        normal = rng.normal("time", dtype=torch.float64)
        high = (self.mean + self.std * normal).exp().clamp(max=self.sigma_max)
        low = self.lower(high, self.stage(rng.step))
        r = torch.where(low > 0, time_of(low.clamp(min=1e-12), path), 0.0)
        return Pair(time_of(high, path).float(), r.float(), (1.0 / (high - low)).float())

    def first(self, path: Path) -> float:
        return last_time(self.sigma_max, path)


def time_of(level: Tensor, path: Path) -> Tensor:
    """The time at which sigma / alpha has this value."""
    return path.time_of_log_snr(-2.0 * level.log())


def last_time(sigma_max: float, path: Path) -> float:
    """The time of the largest level.

    Raises:
        ValueError: the path does not have that much noise.
    """
    level, end = torch.tensor([sigma_max, 1.0], dtype=torch.float64)
    t = float(time_of(level, path))
    if t > 1 + 1e-9:
        raise ValueError(
            f"loss.levels.sigma_max={sigma_max} is more noise than path={type(path).__name__} has, which ends at "
            f"{float(path.sigma(end) / path.alpha(end)):.4g}: choose less"
        )
    return min(t, 1.0)
