"""From noise to data in one dimension: python benchmarks/trajectories.py docs/lecture/trajectories.png

The data are a mixture of two Gaussians, whose exact denoiser has a formula; so nothing is trained, and what is drawn
are the paths and samplers of the package. Behind the lines is the density of x_t. Left: flow matching, linear path.
Middle: diffusion, variance-preserving path, the equation without noise. Right: the same path, noise added on the way.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path as File

import matplotlib.pyplot as plt
import torch
from figures import COLOURS, save
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear, Path, VPLinear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.sampling.base import Sampler
from t2ilab.sampling.grid import Grid, LastStepGrid
from t2ilab.sampling.ode import Heun
from t2ilab.sampling.sde import EulerMaruyama

WEIGHTS, MEANS, STD = (0.35, 0.65), (-1.3, 1.1), 0.22
EDGE = 3.0


class TwoGaussians(nn.Module):
    """The velocity alpha' E[x0 | x_t] + sigma' E[eps | x_t] of the mixture above."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor, t: Tensor, cond: None, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict]:
        alpha, sigma, up, down = (
            f(t).view(-1, 1, 1, 1)
            for f in (self.path.alpha, self.path.sigma, self.path.dalpha, self.path.dsigma)
        )
        variance = alpha**2 * STD**2 + sigma**2
        off = [x - alpha * mean for mean in MEANS]
        share = torch.softmax(
            torch.stack([math.log(w) - d**2 / (2 * variance) for w, d in zip(WEIGHTS, off, strict=True)]), 0
        )
        x0 = sum(s * (m + alpha * STD**2 / variance * d) for s, m, d in zip(share, MEANS, off, strict=True))
        eps = sum(s * sigma / variance * d for s, d in zip(share, off, strict=True))
        return up * x0 + down * eps, {}


def density(path: Path, times: Tensor, x: Tensor) -> Tensor:
    """p_t(x) for all pairs, (x, t)."""
    alpha, sigma = path.alpha(times), path.sigma(times)
    std = (alpha**2 * STD**2 + sigma**2).sqrt()
    parts = [
        w * torch.exp(-((x[:, None] - alpha * m) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
        for w, m in zip(WEIGHTS, MEANS, strict=True)
    ]
    return sum(parts)


def panel(axes: plt.Axes, path: Path, sampler: Sampler, title: str, number: int = 36) -> None:
    """The density of x_t behind lines that begin at evenly spread quantiles of the noise."""
    levels = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    start = math.sqrt(2) * torch.erfinv(2 * levels - 1)
    rng = RowRng(0, 0, torch.arange(number), number) if sampler.is_stochastic else None
    states = sampler(
        Denoiser(TwoGaussians(path), path, Velocity(), time_scale=1.0),
        start.view(-1, 1, 1, 1),
        rng=rng,
        keep_states=True,
    ).states
    times, lines = sampler.grid.times(path), torch.stack(states).flatten(1)
    t = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)
    shown = density(path, t, (2 * t - 1) * EDGE).sqrt()
    axes.imshow(shown, extent=(0, 1, -EDGE, EDGE), origin="lower", aspect="auto", cmap="Greys", vmax=1.6)
    for line in lines.T:
        axes.plot(times, line, color=COLOURS[int(line[-1] < 0)], linewidth=0.9, alpha=0.9)
    axes.set(title=title, xlim=(1, 0), ylim=(-EDGE, EDGE), xlabel="t  (1 noise, 0 data)", xticks=[1, 0.5, 0])


def draw(file: File) -> None:
    flow, diffusion = Linear(), VPLinear()
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.6), sharey=True, layout="constrained")
    panel(panels[0], flow, Heun(Grid(200)), "flow matching")
    panel(panels[1], diffusion, Heun(Grid(400)), "diffusion, without noise (ODE)")
    panel(
        panels[2],
        diffusion,
        EulerMaruyama(LastStepGrid(400, last=0.001), diffusion="path"),
        "diffusion, with noise (SDE)",
        number=10,
    )
    panels[0].set_ylabel("x")
    save(figure, file)


if __name__ == "__main__":
    draw(File(sys.argv[1]))
