"""Samplers of the probability-flow ODE dx/dt = u(x, t), by Euler's and Heun's rules.

They step in the clock of the path. On the linear path that is t, and an Euler step equals one of DDIM and of
DPM-Solver++ of first order. On the VE path it is sigma, and Heun is EDM's sampler. A last step that ends
without noise returns the denoised estimate, which is where Euler ends too on those two paths; on the VP
paths, whose sigma rises like the square root of t, Euler would leave half the noise in.
"""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.prediction import Estimate
from t2ilab.sampling.base import Run, Sampler


def euler_step(run: Run, i: int, x: Tensor, estimate: Estimate) -> Tensor:
    """x + (clock' - clock) dx/dclock, or alpha' x0 where no noise is left afterwards."""
    table = run.table
    if run.is_clean(i + 1):
        return estimate.x0 if table.alpha[i + 1] == 1.0 else table.alpha[i + 1] * estimate.x0
    return x.add(estimate.velocity(), alpha=(table.clock[i + 1] - table.clock[i]) * table.rate[i])


class Euler(Sampler):
    """First order, one evaluation per step."""

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        return euler_step(run, i, x, run.estimate(i, x))


class Heun(Sampler):
    """Second order: the mean of the slopes at both ends of an Euler step; two evaluations, one in the last
    step.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        first = run.estimate(i, x)
        guess = euler_step(run, i, x, first)
        if run.is_clean(i + 1):
            return guess
        second = run.estimate(i + 1, guess)
        half = 0.5 * (table.clock[i + 1] - table.clock[i])
        x = x.add(first.velocity(), alpha=half * table.rate[i])
        return x.add(second.velocity(), alpha=half * table.rate[i + 1])
