"""Distributions of the training time t in [0, 1], each given by its quantile function.

They know no path. Every one is inverted from a uniform number, so a stratified draw works for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from t2ilab.core.rng import RowRng

_Time = TypeVar("_Time", float, Tensor)


def shift_time(t: _Time, a: float) -> _Time:
    """t' = a t / (1 + (a - 1) t): adds ln(a) to logit(t); keeps 0 and 1; the inverse is 1 / a.

    Source: Esser et al. 2024 (SD3), arXiv 2403.03206, eq. 23.
    """
    return a * t / (1.0 + (a - 1.0) * t)


class TimestepSampler(ABC):
    """A distribution of times.

    Args:
        stratified: row i of n, counted in a random order, takes the level (u + i) / n with one shared uniform
            u, so the global batch covers the distribution evenly (Kingma et al. 2021, arXiv 2107.00630).
    """

    low: float = 0.0
    high: float = 1.0
    """No time is drawn outside [low, high]."""

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


class Uniform(TimestepSampler):
    """Uniform between two times.

    Args:
        low, high: ends of the range, 0 <= low < high <= 1.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, *, stratified: bool = False) -> None:
        super().__init__(stratified=stratified)
        if not 0 <= low < high <= 1:
            raise ValueError(f"timestep needs 0 <= low < high <= 1, got low {low} and high {high}")
        self.low, self.high = low, high

    def quantile(self, level: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * level

    def log_density(self, t: Tensor) -> Tensor:
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, -math.log(self.high - self.low), -math.inf).to(t.dtype)


class LogitNormal(TimestepSampler):
    """logit(t) ~ N(mean + ln(shift), std^2), mixed with a uniform share.

    shift moves the whole distribution as `shift_time` does; the uniform share, which keeps the ends from
    starving, is not moved. One level serves both parts: below the share it is a uniform one, above it a
    logit-normal one.

    Args:
        mean: of the logit; positive means more noise.
        std: of the logit, positive.
        shift: resolution shift a, positive; 1 leaves the times alone.
        uniform_share: part of the draws that is uniform on [0, 1], in [0, 1].
    Source: Esser et al. 2024, arXiv 2403.03206, eq. 19; the uniform share as in Photoroom's PRX.
    """

    def __init__(
        self,
        mean: float = 0.0,
        std: float = 1.0,
        shift: float = 1.0,
        uniform_share: float = 0.0,
        *,
        stratified: bool = False,
    ) -> None:
        super().__init__(stratified=stratified)
        if not std > 0:
            raise ValueError(f"timestep.std must be positive, got {std}")
        if not shift > 0:
            raise ValueError(f"timestep.shift must be positive, got {shift}")
        if not 0 <= uniform_share <= 1:
            raise ValueError(f"timestep.uniform_share must lie in [0, 1], got {uniform_share}")
        self.mean, self.std, self.shift, self.uniform_share = mean, std, shift, uniform_share
        self._location = mean + math.log(shift)

    def quantile(self, level: Tensor) -> Tensor:
        share = self.uniform_share
        if share == 0:
            return self._logit_normal(level)
        uniform, other = level / share, ((level - share) / max(1.0 - share, 1e-12)).clamp(0.0, 1.0)
        return torch.where(level < share, uniform, self._logit_normal(other))

    def log_density(self, t: Tensor) -> Tensor:
        """ln pi(t) = -(logit t - m)^2 / (2 s^2) - ln(s sqrt(2 pi) t (1 - t)), mixed with the uniform."""
        inner = t.double().clamp(1e-300, 1.0 - 2.0**-53)
        z = (torch.logit(inner) - self._location) / self.std
        log_jacobian = inner.log() + torch.log1p(-inner) + math.log(self.std * math.sqrt(2.0 * math.pi))
        density = -0.5 * z * z - log_jacobian
        if self.uniform_share > 0:
            rest = math.log1p(-self.uniform_share) if self.uniform_share < 1 else -math.inf
            density = torch.logaddexp(density + rest, torch.full_like(density, math.log(self.uniform_share)))
        return torch.where((t >= 0) & (t <= 1), density, -math.inf).to(t.dtype)

    def _logit_normal(self, level: Tensor) -> Tensor:
        return torch.sigmoid(self._location + self.std * torch.special.ndtri(level))
