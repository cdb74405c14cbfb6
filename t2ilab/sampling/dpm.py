"""DPM-Solver++(2M): second order with one evaluation per step, by the memory of the one before."""

from __future__ import annotations

import math

from torch import Tensor

from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid


class DPMSolverPP2M(Sampler):
    """x' = k x + (alpha' - alpha k) D + sigma' sqrt(1 - exp(-2 eta h)) z,  k = (sigma' / sigma) exp(-eta h).

    Exact for a constant estimate D of x0. Without noise, eta = 0, it is DPM-Solver++; with eta = 1 the noise is that
    of the reverse SDE, as in DDPM, which mends what earlier steps got wrong.

    D = x0_i + (x0_i - x0_{i-1}) h / (2 h_prev) with the steps h in ln(alpha / sigma). Where h_prev or h is
    infinite, after a start without data and in a step to no noise, D = x0_i and the step is one of DDIM.

    Args:
        grid: the times.
        lower_order_final: first order in the last step of a run of fewer than 15.
        eta: strength of the noise, not negative.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2; with noise, its SDE-DPM-Solver++(2M) in the midpoint form
    of k-diffusion, which scales the noise by eta as here.
    """

    def __init__(self, grid: TimeGrid, *, lower_order_final: bool = True, eta: float = 0.0) -> None:
        super().__init__(grid)
        if not eta >= 0:
            raise ValueError(f"sampler.eta must not be negative, got {eta}")
        self.lower_order_final = lower_order_final
        self.eta = eta

    @property
    def is_stochastic(self) -> bool:
        return self.eta > 0

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        x0 = run.estimate(i, x).x0
        ratio = self._extrapolation(run, i)
        data = x0 if ratio == 0.0 else x0 + ratio * (x0 - run.previous.pop())
        run.previous[:] = [x0]
        shrunk = self._shrunk(run, i)
        kept = table.sigma[i + 1] / table.sigma[i] * shrunk
        mean = (kept * x).add_(data, alpha=table.alpha[i + 1] - table.alpha[i] * kept)
        return run.add_noise(i, mean, table.sigma[i + 1] * math.sqrt(1.0 - shrunk**2))

    def _shrunk(self, run: Run, i: int) -> float:
        """exp(-eta h): how much of the old noise stays; nothing in a step of infinite h."""
        table = run.table
        if self.eta == 0 or run.is_clean(i + 1):
            return 1.0
        signal = (table.alpha[i] * table.sigma[i + 1]) / (table.alpha[i + 1] * table.sigma[i])
        return float(signal**self.eta)

    def _extrapolation(self, run: Run, i: int) -> float:
        """h / (2 h_prev), zero where the step is of first order."""
        table, steps = run.table, len(run.table.t) - 1
        if not run.previous or (self.lower_order_final and i == steps - 1 and steps < 15):
            return 0.0
        if run.is_clean(i + 1) or table.alpha[i - 1] == 0.0:
            return 0.0
        before, here, after = (math.log(table.alpha[j] / table.sigma[j]) for j in (i - 1, i, i + 1))
        return (after - here) / (2.0 * (here - before))
