"""DPM-Solver++(2M): second order with one evaluation per step, by the memory of the one before."""

from __future__ import annotations

import math

from torch import Tensor

from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid


class DPMSolverPP2M(Sampler):
    """x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) D, exact for a constant estimate D of x0.

    D = x0_i + (x0_i - x0_{i-1}) h / (2 h_prev) with the steps h in ln(alpha / sigma). Where h_prev or h is
    infinite, after a start without data and in a step to no noise, D = x0_i and the step is one of DDIM.

    Args:
        grid: the times.
        lower_order_final: first order in the last step of a run of fewer than 15.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """

    def __init__(self, grid: TimeGrid, *, lower_order_final: bool = True) -> None:
        super().__init__(grid)
        self.lower_order_final = lower_order_final

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        x0 = run.estimate(i, x).x0
        ratio = self._extrapolation(run, i)
        data = x0 if ratio == 0.0 else x0 + ratio * (x0 - run.previous.pop())
        run.previous[:] = [x0]
        kept = table.sigma[i + 1] / table.sigma[i]
        return (kept * x).add_(data, alpha=table.alpha[i + 1] - table.alpha[i] * kept)

    def _extrapolation(self, run: Run, i: int) -> float:
        """h / (2 h_prev), zero where the step is of first order."""
        table, steps = run.table, len(run.table.t) - 1
        if not run.previous or (self.lower_order_final and i == steps - 1 and steps < 15):
            return 0.0
        if run.is_clean(i + 1) or table.alpha[i - 1] == 0.0:
            return 0.0
        before, here, after = (math.log(table.alpha[j] / table.sigma[j]) for j in (i - 1, i, i + 1))
        return (after - here) / (2.0 * (here - before))
