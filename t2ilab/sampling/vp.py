"""Ancestral samplers: DDPM and DDIM, written for any path.

With alpha_s = alpha / alpha' and sigma_s^2 = sigma^2 - alpha_s^2 sigma'^2, the share of data and the variance
of the noise that a step from t back to t' < t undoes, the posterior of x' given x and x0 is a normal
distribution with

    mean alpha' x0 + sqrt(sigma'^2 - std^2) eps,    std = sigma_s sigma' / sigma                        (1)

On the VP paths sigma_s^2 = 1 - abar / abar' and (1) is DDPM's posterior.
"""

from __future__ import annotations

import math

from torch import Tensor

from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid


def _lost_std(run: Run, i: int) -> float:
    """sigma_s: standard deviation of the noise that the forward process adds from t_{i+1} to t_i."""
    table = run.table
    share = table.alpha[i] / table.alpha[i + 1]
    return math.sqrt(max(table.sigma[i] ** 2 - (share * table.sigma[i + 1]) ** 2, 0.0))


class DDIM(Sampler):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z with s = eta times the standard deviation of eq. (1).

    Args:
        grid: the times.
        eta: 0 is deterministic, 1 is DDPM with the posterior's variance.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16.
    """

    def __init__(self, grid: TimeGrid, eta: float = 0.0) -> None:
        super().__init__(grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta must lie in [0, 1], got {eta}")
        self.eta = eta

    @property
    def is_stochastic(self) -> bool:
        return self.eta > 0

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        estimate = run.estimate(i, x)
        std = self.eta * _lost_std(run, i) * table.sigma[i + 1] / table.sigma[i]
        rest = math.sqrt(max(table.sigma[i + 1] ** 2 - std**2, 0.0))
        mean = table.alpha[i + 1] * estimate.x0
        return run.add_noise(i, mean if rest == 0.0 else mean.add_(estimate.eps, alpha=rest), std)


class DDPM(Sampler):
    """The posterior mean of eq. (1) with noise of a chosen variance; none in a step that ends clean.

    Args:
        grid: the times; 250 steps and more.
        large_variance: noise of variance sigma_s^2 (DDPM's beta) instead of the posterior's.
    Source: Ho et al. 2020, arXiv 2006.11239, eq. 6-7 and section 3.2.
    """

    def __init__(self, grid: TimeGrid, *, large_variance: bool = False) -> None:
        super().__init__(grid)
        self.large_variance = large_variance

    @property
    def is_stochastic(self) -> bool:
        return True

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        x0 = run.estimate(i, x).x0
        lost = _lost_std(run, i)
        kept = (table.sigma[i + 1] / table.sigma[i]) ** 2
        mean = (kept * table.alpha[i] / table.alpha[i + 1] * x).add_(
            x0, alpha=table.alpha[i + 1] * (lost / table.sigma[i]) ** 2
        )
        std = lost if self.large_variance else lost * math.sqrt(kept)
        return run.add_noise(i, mean, 0.0 if run.is_clean(i + 1) else std)
