"""Stochastic sampling: every member of the family of reverse SDEs has the marginals of the ODE."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.prediction import Estimate, Prediction
from t2ilab.sampling.base import Run
from t2ilab.sampling.grid import TimeGrid
from t2ilab.sampling.markov import Markov, Point, Transition, rows
from t2ilab.sampling.ode import euler_step

DIFFUSIONS = ("sigma", "path")


class EulerMaruyama(Markov):
    """dx = [u - (w(t) / 2) s] dt + sqrt(w(t)) dW, integrated with dt < 0; s is the score.

    Two choices of w(t), and any other, leave the marginals as they are:

        sigma   w sigma(t); with w = 2 that of SiT and REPA, bounded on the linear and the trig path
        path    w g(t)^2 with the diffusion of the forward SDE; w = 1 is its reversal (Anderson)

    The last step of the grid takes the mean only. w = 0 is the Euler sampler, bit for bit.

    Args:
        grid: the times; many steps (250). `LastStepGrid` fits.
        w: strength of the noise, not negative.
        diffusion: `sigma` or `path`.
    Source: Ma et al. 2024 (SiT), arXiv 2401.08740, eq. 8 and appendix; Anderson 1982; Song et al. 2021, arXiv
    2011.13456, eq. 6.
    """

    def __init__(self, grid: TimeGrid, w: float = 2.0, diffusion: str = "sigma") -> None:
        super().__init__(grid)
        if not w >= 0:
            raise ValueError(f"sampler.w must not be negative, got {w}")
        if diffusion not in DIFFUSIONS:
            raise ValueError(f"sampler.diffusion must be one of {', '.join(DIFFUSIONS)}, got {diffusion}")
        self.w, self.diffusion = w, diffusion

    def check(self, path: Path, prediction: Prediction) -> None:
        super().check(path, prediction)
        first = self.grid.times(path)[0]
        if self.w > 0 and self.diffusion == "path" and not path.squared_diffusion(first).isfinite():
            raise ValueError(
                f"sampler.diffusion=path is infinite at the first time, {float(first):g}, where "
                f"path={type(path).__name__} has no data left: begin later, for instance with "
                "sampler.grid.start=0.99, or choose sampler.diffusion=sigma"
            )

    @property
    def is_stochastic(self) -> bool:
        return self.w > 0

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        return euler_step(run, i, x, run.estimate(i, x)) if self.w == 0 else super().step(run, i, x)

    def transition(self, estimate: Estimate, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        path = estimate.path
        now, then = (Point.of(path, time) for time in (t, s))
        strength = now.sigma if self.diffusion == "sigma" else path.squared_diffusion(now.t)
        variance = self.w * strength * (now.t - then.t)
        stride = (path.clock(then.t) - path.clock(now.t)) / path.dclock(now.t)
        mean = torch.addcmul(x, rows(stride, x), estimate.velocity())
        clean = then.sigma == 0
        if bool(clean.any()):  # no noise is left: what is denoised is the end, see `ode.py`
            mean = torch.where(rows(clean, x) > 0, rows(then.alpha, x) * estimate.x0, mean)
        mean = torch.addcmul(mean, rows(0.5 * variance, x), estimate.score())
        last = then.t <= float(self.grid.times(path)[-1])
        return Transition(mean, torch.where(last, 0.0, variance.sqrt()))
