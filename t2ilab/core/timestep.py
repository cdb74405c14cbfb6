"""Distributions of the training time t in [0, 1], each given by its quantile function.

They know no path. Every one is inverted from a uniform number, so a stratified draw works for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from t2ilab.core.inverse import inverse
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time

_LEAST, _MOST = 1e-300, 1.0 - 2.0**-53  # the times 0 and 1 where a density divides by t or 1 - t
_SMALLEST_SHARE = 1e-9  # of its draws that a range of times must keep


class TimestepSampler(ABC):
    """A distribution of times.

    Args:
        stratified: row i of n, counted in a random order, takes the level (u + i) / n with one shared uniform
            u, so the global batch covers the distribution evenly (Kingma et al. 2021, arXiv 2107.00630).
    """

    low: float = 0.0
    high: float = 1.0
    """No time is drawn outside [low, high]."""
    learns: ClassVar[bool] = False
    """Whether the distribution follows the losses that `observe` is told."""

    def __init__(self, *, stratified: bool = False) -> None:
        self.stratified = stratified

    def __call__(self, rng: RowRng) -> Tensor:
        """One time per row, (n,) float32. Draws from the purpose "time" of `rng`."""
        if self.stratified:
            place = rng.permutation("time")[rng.rows]
            level = (rng.shared_uniform("time") + place) / rng.total
        else:
            level = rng.uniform("time", dtype=torch.float64) + 2.0**-33  # the middle of the cell, never 0
        return self.quantile(level).float()

    def begin(self, step: int) -> None:  # noqa: B027 most distributions have nothing to learn
        """Called before the times of a step are drawn; a distribution that learns takes in the last step here."""

    def observe(self, loss: Tensor, t: Tensor) -> None:  # noqa: B027 as above
        """Called with the losses of the drawn times, (n,) each."""

    def weigh(self, loss: Tensor, t: Tensor) -> Tensor:
        """The losses (n,) with the weights that this distribution asks for."""
        return loss

    @abstractmethod
    def quantile(self, level: Tensor) -> Tensor:
        """The time below which this share of the draws lies; levels (n,) float64 in [0, 1)."""

    @abstractmethod
    def log_density(self, t: Tensor) -> Tensor:
        """Natural logarithm of the density at t, shaped like t; minus infinity outside the range."""


def fixed(timestep: TimestepSampler) -> TimestepSampler:
    """The distribution, for a method that tells it no losses.

    Raises:
        ValueError: it learns from them, and would stay as it begins.
    """
    if timestep.learns:
        raise ValueError(
            "timestep=loss_aware learns from the losses of training on data, which this loss does not have: choose "
            "another, such as timestep=logit_normal"
        )
    return timestep


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeDistribution(TimestepSampler):
    """A distribution with a formula, which is shifted, cut to a range and mixed with a uniform one, in this order.

    A kind of distribution says `base_quantile` and `base_log_density`, as it is before all that.

    Attributes:
        shift: a of `shift_time`, positive; more than 1 means more noise, 1 leaves the times alone.
        low, high: no time outside [low, high], 0 <= low < high <= 1; what fell outside is drawn anew.
        uniform_share: part of the draws that is uniform on [low, high], in [0, 1]; it keeps the ends from starving.
        stratified: as in TimestepSampler.
    Source: Esser et al. 2024 (SD3), arXiv 2403.03206, eq. 23 for the shift; range and share as in Photoroom's PRX.
    """

    shift: float = 1.0
    low: float = 0.0
    high: float = 1.0
    uniform_share: float = 0.0
    stratified: bool = False

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"timestep.shift must be positive, got {self.shift}")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"timestep needs 0 <= low < high <= 1, got low {self.low} and high {self.high}")
        if not 0 <= self.uniform_share <= 1:
            raise ValueError(f"timestep.uniform_share must lie in [0, 1], got {self.uniform_share}")
        if self._kept[1] - self._kept[0] < _SMALLEST_SHARE:
            raise ValueError(
                f"timestep.low = {self.low} and timestep.high = {self.high} leave hardly any of the times that "
                f"{type(self).__name__} draws: widen them"
            )

    @abstractmethod
    def base_quantile(self, level: Tensor) -> Tensor:
        """The increasing function that makes the distribution of uniform levels in [0, 1], float64."""

    @abstractmethod
    def base_log_density(self, t: Tensor) -> Tensor:
        """ln (1 / slope of base_quantile) where base_quantile = t, for float64 t inside (0, 1)."""

    def base_cdf(self, t: Tensor) -> Tensor:
        """The inverse of base_quantile, float64."""
        return inverse(self.base_quantile, t)

    def quantile(self, level: Tensor) -> Tensor:
        """The time that belongs to a level; one level serves both parts of a mixture.

        Below the uniform share a level is a uniform time, above it one of the distribution, so this is the
        quantile function of each part, and of the whole where there is one part only.
        """
        share = self.uniform_share
        first, last = self._kept
        own = ((level - share) / max(1.0 - share, 1e-12)).clamp(0.0, 1.0)
        t = shift_time(self.base_quantile(first + (last - first) * own), self.shift)
        if share > 0:
            t = torch.where(level < share, self.low + (self.high - self.low) * level / share, t)
        return t.clamp(self.low, self.high)

    def log_density(self, t: Tensor) -> Tensor:
        """ln p(t), with p(t) = p_base(t_base) dt_base/dt and dt_base/dt = (1 / a) / (1 + (1 / a - 1) t)^2."""
        first, last = self._kept
        inner = t.double().clamp(_LEAST, _MOST)
        before = shift_time(inner, 1.0 / self.shift).clamp(_LEAST, _MOST)
        slope = -math.log(self.shift) - 2.0 * torch.log1p((1.0 / self.shift - 1.0) * inner)
        density = self.base_log_density(before) + slope - math.log(last - first)
        if self.uniform_share > 0:
            rest = math.log1p(-self.uniform_share) if self.uniform_share < 1 else -math.inf
            even = math.log(self.uniform_share / (self.high - self.low))
            density = torch.logaddexp(density + rest, torch.full_like(density, even))
        return torch.where((t >= self.low) & (t <= self.high), density, -math.inf).to(t.dtype)

    @cached_property
    def _kept(self) -> tuple[float, float]:
        """The levels of the distribution at both ends of the range."""
        ends = torch.tensor([self.low, self.high], dtype=torch.float64, device="cpu")
        first, last = self.base_cdf(shift_time(ends, 1.0 / self.shift)).tolist()
        return first if self.low > 0 else 0.0, last if self.high < 1 else 1.0


@dataclass(frozen=True, eq=False)
class Uniform(TimeDistribution):
    """Uniform between low and high, for a shift of 1."""

    low: float = 0.0
    high: float = 1.0
    uniform_share: float = field(default=0.0, init=False)

    def base_quantile(self, level: Tensor) -> Tensor:
        return level

    def base_log_density(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True, eq=False)
class LogitNormal(TimeDistribution):
    """logit(t) ~ N(mean, std^2); a shift a adds ln(a) to the mean.

    Attributes:
        mean: of the logit; positive means more noise.
        std: of the logit, positive.
    Source: Esser et al. 2024, arXiv 2403.03206, eq. 19.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"timestep.std must be positive, got {self.std}")
        super().__post_init__()

    def base_quantile(self, level: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(level))

    def base_log_density(self, t: Tensor) -> Tensor:
        """-(logit t - m)^2 / (2 s^2) - ln(s sqrt(2 pi) t (1 - t))."""
        z = (torch.logit(t) - self.mean) / self.std
        return -0.5 * z * z - t.log() - torch.log1p(-t) - math.log(self.std * math.sqrt(2.0 * math.pi))


@dataclass(frozen=True, eq=False)
class LogNormal(LogitNormal):
    """EDM's noise levels, ln s ~ N(mean, std^2) with s = sigma / alpha, on the clocks of two paths.

    Times of the linear path have s = t / (1 - t), so there (sigma_max None) this is the logit-normal distribution of
    the same numbers. On the VE path 1 / s = (1 - t) / t + 1 / sigma_max; with tau = s / (1 + s), which is
    logit-normal,

        t = tau / (1 - tau / sigma_max),    tau = t / (1 + t / sigma_max),

    and levels above sigma_max are drawn anew. Other paths have other clocks: on them it is a logit-normal time.

    Attributes:
        mean, std: of ln s; EDM's mean is for data of std 0.5, ours has ln 2 more.
        sigma_max: that of path=ve, more than 1, or None.
    Source: Karras et al. 2022 (EDM), arXiv 2206.00364, table 1.
    """

    sigma_max: float | None = None

    def __post_init__(self) -> None:
        if self.sigma_max is not None and not self.sigma_max > 1:
            raise ValueError(f"timestep.sigma_max must be larger than 1, or null, got {self.sigma_max}")
        super().__post_init__()

    def base_quantile(self, level: Tensor) -> Tensor:
        tau = super().base_quantile(level * self._reached)
        return (tau / (1.0 - self._least * tau)).clamp(max=1.0)

    def base_log_density(self, t: Tensor) -> Tensor:
        tau = t / (1.0 + self._least * t)
        return super().base_log_density(tau) - 2.0 * torch.log1p(self._least * t) - math.log(self._reached)

    @property
    def _least(self) -> float:
        """1 / sigma_max."""
        return 0.0 if self.sigma_max is None else 1.0 / self.sigma_max

    @property
    def _reached(self) -> float:
        """The share of levels below sigma_max."""
        if self.sigma_max is None:
            return 1.0
        return 0.5 + 0.5 * math.erf((math.log(self.sigma_max) - self.mean) / (self.std * math.sqrt(2.0)))


@dataclass(frozen=True, eq=False)
class Mode(TimeDistribution):
    """t = 1 - u - s (cos^2(pi u / 2) - 1 + u) for uniform u: a flat hill in the middle, with heavy tails.

    Written in the level 1 - u, which rises with t: t = level + s (level - sin^2(pi level / 2)).

    Attributes:
        scale: s; positive favours the middle, negative the ends, 0 is uniform. The map is monotone from -1 to
            2 / (pi - 2) = 1.752.
    Source: Esser et al. 2024, arXiv 2403.03206, eq. 20.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(
                f"timestep.scale must lie in [-1, 2 / (pi - 2) = {2 / (math.pi - 2):.4f}], got {self.scale}"
            )
        super().__post_init__()

    def base_quantile(self, level: Tensor) -> Tensor:
        return level + self.scale * (level - torch.sin(0.5 * math.pi * level) ** 2)

    def base_log_density(self, t: Tensor) -> Tensor:
        level = self.base_cdf(t)
        return -torch.log(1.0 + self.scale * (1.0 - 0.5 * math.pi * torch.sin(math.pi * level)))


@dataclass(frozen=True, eq=False)
class CosMap(TimeDistribution):
    """t = 1 - 1 / (tan(pi u / 2) + 1) for uniform u: on the linear path the log SNR of the trig path at u.

    Source: Esser et al. 2024, arXiv 2403.03206, eq. 21.
    """

    def base_quantile(self, level: Tensor) -> Tensor:
        noise = torch.sin(0.5 * math.pi * level)
        return noise / (noise + torch.sin(0.5 * math.pi * (1.0 - level)))

    def base_log_density(self, t: Tensor) -> Tensor:
        """2 / (pi (1 - 2 t + 2 t^2))."""
        return -torch.log(0.5 * math.pi * (1.0 - 2.0 * t + 2.0 * t * t))
