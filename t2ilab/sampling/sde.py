"""Stochastic sampling: every member of the family of reverse SDEs has the marginals of the ODE."""

from __future__ import annotations

import math

from torch import Tensor

from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid
from t2ilab.sampling.ode import euler_step


class EulerMaruyama(Sampler):
    """dx = [u - (w(t) / 2) s] dt + sqrt(w(t)) dW, integrated with dt < 0; s is the score, w(t) = w sigma(t).

    The last step of the grid takes the mean only. w = 0 is the Euler sampler, bit for bit; w = 2 is the
    choice of SiT and REPA, w(t) = 2 t on the linear path. Meant for the linear and the trig path;
    `LastStepGrid` fits.

    Args:
        grid: the times; many steps (250).
        w: strength of the noise, not negative.
    Source: Ma et al. 2024 (SiT), arXiv 2401.08740, eq. 8 and appendix; Anderson 1982 for the reverse SDE.
    """

    def __init__(self, grid: TimeGrid, w: float = 2.0) -> None:
        super().__init__(grid)
        if not w >= 0:
            raise ValueError(f"sampler.w must not be negative, got {w}")
        self.w = w

    @property
    def is_stochastic(self) -> bool:
        return self.w > 0

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        estimate = run.estimate(i, x)
        mean = euler_step(run, i, x, estimate)
        if self.w == 0:
            return mean
        variance = self.w * table.sigma[i] * (table.t[i] - table.t[i + 1])
        mean = mean.add(estimate.score(), alpha=0.5 * variance)
        is_last = i == len(table.t) - 2
        return run.add_noise(i, mean, 0.0 if is_last else math.sqrt(variance))
