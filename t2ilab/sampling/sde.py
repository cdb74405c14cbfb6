"""Stochastic sampling: every member of the family of reverse SDEs has the marginals of the ODE."""

from __future__ import annotations

import math

from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.prediction import Prediction
from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid
from t2ilab.sampling.ode import euler_step

DIFFUSIONS = ("sigma", "path")


class EulerMaruyama(Sampler):
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
        table = run.table
        estimate = run.estimate(i, x)
        mean = euler_step(run, i, x, estimate)
        if self.w == 0:
            return mean
        strength = table.sigma[i] if self.diffusion == "sigma" else table.diffusion[i]
        variance = self.w * strength * (table.t[i] - table.t[i + 1])
        mean = mean.add(estimate.score(), alpha=0.5 * variance)
        is_last = i == len(table.t) - 2
        return run.add_noise(i, mean, 0.0 if is_last else math.sqrt(variance))
