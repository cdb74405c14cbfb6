"""Perfect denoisers of distributions whose posterior mean is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import Prediction
from t2ilab.core.types import Condition

Distribution = Callable[[Tensor, Tensor, Tensor, Condition | None], tuple[Tensor, Tensor]]
"""(x, alpha, sigma, condition) -> (E[x0 | x], E[eps | x])."""


def texts(rows: int, value: float = 0.0) -> Condition:
    """Conditions that carry one number in `pooled`."""
    mask = torch.ones(rows, 1, dtype=torch.bool)
    return Condition(torch.zeros(rows, 1, 1), mask, torch.full((rows, 1), value, dtype=torch.float64))


def gaussian(mean: float = 0.7, std: float = 0.5) -> Distribution:
    """x0 ~ N(mean + pooled number of the condition, std^2) in every dimension."""

    def distribution(
        x: Tensor, alpha: Tensor, sigma: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Tensor]:
        shift = 0.0 if cond is None or cond.pooled is None else like_rows(cond.pooled[:, 0].to(x.dtype), x)
        variance = alpha**2 * std**2 + sigma**2
        centred = x - alpha * (mean + shift)
        return mean + shift + alpha * std**2 / variance * centred, sigma / variance * centred

    return distribution


WEIGHTS, MEANS, STDS = (0.3, 0.7), (-1.5, 1.0), (0.4, 0.3)


def mixture() -> Distribution:
    """x0 from the mixture of two normal distributions above, in every dimension."""

    def distribution(
        x: Tensor, alpha: Tensor, sigma: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Tensor]:
        logits, data, noise = [], [], []
        for weight, mean, std in zip(WEIGHTS, MEANS, STDS, strict=True):
            variance = alpha**2 * std**2 + sigma**2
            centred = x - alpha * mean
            logits.append(math.log(weight) - 0.5 * variance.log() - 0.5 * centred**2 / variance)
            data.append(mean + alpha * std**2 / variance * centred)
            noise.append(sigma / variance * centred)
        share = torch.softmax(torch.stack(logits), 0)
        return (share * torch.stack(data)).sum(0), (share * torch.stack(noise)).sum(0)

    return distribution


def dataset(points: Tensor) -> Distribution:
    """x0 one of the points (N, C, H, W) with equal chances."""

    def distribution(
        x: Tensor, alpha: Tensor, sigma: Tensor, cond: Condition | None
    ) -> tuple[Tensor, Tensor]:
        distance = (x[:, None] - alpha[:, None] * points[None]).flatten(2).square().sum(2)
        share = torch.softmax(-0.5 * distance / sigma.flatten()[:, None] ** 2, 1)
        x0 = torch.einsum("bn,nchw->bchw", share, points)
        return x0, (x - alpha * x0) / sigma

    return distribution


class _Perfect(nn.Module):
    """A backbone that returns exactly what its prediction asks for; minimal interface of a real one."""

    def __init__(self, distribution: Distribution, path: Path, prediction: Prediction) -> None:
        super().__init__()
        self.distribution, self.path, self.prediction = distribution, path, prediction

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None, taps: tuple[str, ...] = ()) -> tuple:
        probe = torch.tensor([0.3], dtype=torch.float64)
        tells_t = torch.equal(self.prediction.time_input(self.path, probe), probe)
        t = time if tells_t else self.path.time_of_log_snr(-8.0 * time)
        scale = self.prediction.input_scale(self.path, t)
        x = x if scale is None else x / like_rows(scale, x)
        alpha, sigma = like_rows(self.path.alpha(t), x), like_rows(self.path.sigma(t), x)
        x0, eps = self.distribution(x, alpha, sigma, cond)
        a, b = self.prediction.coefficients(self.path, t)
        return like_rows(a, x) * x0 + like_rows(b, x) * eps, dict.fromkeys(taps, x)


def oracle(distribution: Distribution, path: Path, prediction: Prediction) -> Denoiser:
    """The denoiser that knows the posterior mean."""
    return Denoiser(_Perfect(distribution, path, prediction), path, prediction, time_scale=1.0)


class Silent(nn.Module):
    """A backbone whose output layer is zero, like ours before the first step."""

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None, taps: tuple[str, ...] = ()) -> tuple:
        return torch.zeros_like(x), {}


class Recorder(nn.Module):
    """A backbone that notes what it is given and returns a fixed multiple of its input."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = factor
        self.calls: list[tuple[Tensor, Tensor, Condition | None]] = []

    def forward(self, x: Tensor, time: Tensor, cond: Condition | None, taps: tuple[str, ...] = ()) -> tuple:
        self.calls.append((x, time, cond))
        return self.factor * x, {tap: x.flatten(2).transpose(1, 2) for tap in taps}


def loss_at(objective, batch, eps, t):
    """The main term of a bound objective at given noise and times, (B,)."""
    x_t = objective.student.path.mix(batch.x0, eps, t)
    return objective.error(objective.student(x_t, t, batch.condition), batch.x0, eps)
