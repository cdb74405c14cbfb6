"""Ancestral samplers: DDPM and DDIM, written for any path.

With alpha_s = alpha / alpha' and sigma_s^2 = sigma^2 - alpha_s^2 sigma'^2, the share of data and the variance
of the noise that a step from t back to t' < t undoes, the posterior of x' given x and x0 is a normal
distribution with

    mean alpha' x0 + sqrt(sigma'^2 - std^2) eps,    std = sigma_s sigma' / sigma                        (1)

On the VP paths sigma_s^2 = 1 - abar / abar' and (1) is DDPM's posterior.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.core.prediction import Estimate
from t2ilab.sampling.grid import TimeGrid
from t2ilab.sampling.markov import Markov, Point, Transition, lost_std, rows


class DDIM(Markov):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z with s = eta times the std of eq. (1).

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

    def transition(self, estimate: Estimate, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        now, then = (Point.of(estimate.path, time) for time in (t, s))
        std = self.eta * lost_std(now, then) * then.sigma / now.sigma
        rest = (then.sigma.square() - std.square()).clamp(min=0).sqrt()
        mean = rows(then.alpha, x) * estimate.x0
        if bool((rest > 0).any()):  # at the end there may be no eps to tell
            mean = torch.addcmul(mean, rows(rest, x), estimate.eps)
        return Transition(mean, std)


class DDPM(Markov):
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

    def transition(self, estimate: Estimate, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        now, then = (Point.of(estimate.path, time) for time in (t, s))
        lost = lost_std(now, then)
        kept = (then.sigma / now.sigma).square()
        mean = rows(kept * now.alpha / then.alpha, x) * x
        mean = torch.addcmul(mean, rows(then.alpha * (lost / now.sigma).square(), x), estimate.x0)
        std = lost if self.large_variance else lost * kept.sqrt()
        return Transition(mean, torch.where(then.sigma > 0, std, 0.0))
