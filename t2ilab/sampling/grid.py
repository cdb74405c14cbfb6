"""Time grids: at which times a sampler evaluates the network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.shift import shift_time


class TimeGrid(ABC):
    """Falling times, from the noise to the data.

    Args:
        steps: number of intervals, at least 1.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"sampler.grid.steps must be at least 1, got {steps}")
        self.steps = steps

    @abstractmethod
    def times(self, path: Path) -> Tensor:
        """The times, (steps + 1,) float64, strictly falling."""


class Grid(TimeGrid):
    """Even times from start to end, moved by `shift_time`: 1 / t' - 1 = (1 / t - 1)^power / a.

    Args:
        steps: number of intervals.
        shift: a; larger than 1 spends more steps at high noise; None for 1, or, in the stages that read an export,
            for that of the export.
        start, end: first and last time, 1 >= start > end >= 0, shifted too.
        power: larger than 1 spends more steps at both ends; 1 in every published model.
    Source: Esser et al. 2024 (SD3), arXiv 2403.03206, eq. 23; the power is in the code of Flux.
    """

    def __init__(
        self, steps: int, shift: float | None = None, start: float = 1.0, end: float = 0.0, power: float = 1.0
    ) -> None:
        super().__init__(steps)
        shift = 1.0 if shift is None else shift
        if not (shift > 0 and power > 0):
            raise ValueError(
                f"sampler.grid.shift and sampler.grid.power must be positive, got {shift} and {power}"
            )
        if not 1 >= start > end >= 0:
            raise ValueError(f"sampler.grid needs 1 >= start > end >= 0, got start {start} and end {end}")
        self.shift, self.start, self.end, self.power = shift, start, end, power

    def times(self, path: Path) -> Tensor:
        even = torch.linspace(self.start, self.end, self.steps + 1, dtype=torch.float64)
        return shift_time(even, self.shift, self.power)


class LastStepGrid(TimeGrid):
    """Even times from `start` to `last`, moved by `shift_time`, then one step to 0: for stochastic samplers.

    Args:
        steps: number of intervals, at least 2.
        last: where the last step begins, unshifted.
        shift, start: as in `Grid`; 1 in SiT and REPA.
    Source: Ma et al. 2024 (SiT), arXiv 2401.08740.
    """

    def __init__(
        self, steps: int, last: float = 0.04, shift: float | None = None, start: float = 1.0
    ) -> None:
        super().__init__(steps)
        shift = 1.0 if shift is None else shift
        if steps < 2 or not 0 < last < start <= 1:
            raise ValueError(
                f"sampler.grid needs steps >= 2 and 0 < last < start <= 1, got {steps}, {last} and {start}"
            )
        if not shift > 0:
            raise ValueError(f"sampler.grid.shift must be positive, got {shift}")
        self.last, self.shift, self.start = last, shift, start

    def times(self, path: Path) -> Tensor:
        even = torch.linspace(self.start, self.last, self.steps, dtype=torch.float64)
        return torch.cat([shift_time(even, self.shift), even.new_zeros(1)])


class LogSNRGrid(TimeGrid):
    """Even log SNR between two times, the natural grid of DPM-Solver++.

    Args:
        steps: number of intervals.
        start, end: first and last time, 1 > start > end > 0.
    Source: Lu et al. 2022, arXiv 2211.01095.
    """

    def __init__(self, steps: int, start: float = 0.999, end: float = 0.001) -> None:
        super().__init__(steps)
        if not 1 > start > end > 0:
            raise ValueError(f"sampler.grid needs 1 > start > end > 0, got start {start} and end {end}")
        self.start, self.end = start, end

    def times(self, path: Path) -> Tensor:
        first, last = path.log_snr(torch.tensor([self.start, self.end], dtype=torch.float64)).tolist()
        times = path.time_of_log_snr(torch.linspace(first, last, self.steps + 1, dtype=torch.float64))
        times[0], times[-1] = self.start, self.end
        return times


class EDMGrid(TimeGrid):
    """Noise levels s_i = (s_max^(1/rho) + i / (N - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho, then 0.

    s is sigma / alpha, so the grid serves every path; on the VE path it is EDM's, and with Heun the cost is 2
    N - 1.

    Args:
        steps: N, at least 2.
        sigma_min, sigma_max: least and largest noise level: 0.002 and 80 for data of std 0.5, twice as
            much for our latents of 1.
        rho: larger values put more levels near sigma_min.
    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """

    def __init__(
        self, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        super().__init__(steps)
        if steps < 2 or not 0 < sigma_min < sigma_max or not rho > 0:
            raise ValueError(
                "sampler.grid needs steps >= 2, 0 < sigma_min < sigma_max and rho > 0, "
                f"got {steps}, {sigma_min}, {sigma_max}, {rho}"
            )
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def times(self, path: Path) -> Tensor:
        largest, least = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = torch.linspace(largest, least, self.steps, dtype=torch.float64) ** self.rho
        times = path.time_of_log_snr(-2.0 * levels.log())
        if not (times.diff() < 0).all() or not 0 < times[0] <= 1 + 1e-9:
            raise ValueError(
                f"sampler.grid.sigma_max = {self.sigma_max} is more noise than path={type(path).__name__} "
                f"has, which ends at {math.exp(-0.5 * float(path.log_snr(times.new_ones(())))):.4g}"
            )
        return torch.cat([times.clamp(max=1.0), times.new_zeros(1)])
