"""Networks for tests of distillation whose answers are known in closed form."""

import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear, like_rows
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.roles import Roles
from tests.oracles import gaussian, oracle, texts

MEAN, STD = 0.7, 0.5
SHAPE = (2, 4, 4)


def flow(x, alpha, sigma, mean=MEAN, std=STD):
    """The end of the Gaussian trajectory through x: f(x, t) = mean + std / sqrt(V) (x - alpha mean)."""
    return mean + std / torch.sqrt(alpha**2 * std**2 + sigma**2) * (x - alpha * mean)


def exact(wrong=0.0):
    """The distribution whose x0 is the exact consistency function, times 1 + wrong sigma."""

    def distribution(x, alpha, sigma, cond):
        x0 = (1 + wrong * sigma) * flow(x, alpha, sigma)
        return x0, (x - alpha * x0) / sigma.clamp(min=1e-12)

    return distribution


class Straight(nn.Module):
    """The velocity of the coupling x0 = mean + std eps on the linear path, constant along each trajectory."""

    reads = ()

    def forward(self, x, time, cond, taps=()):
        t = like_rows(time, x)
        v = (1 - STD) * (x - (1 - t) * MEAN) / ((1 - t) * STD + t) - MEAN
        return v, {tap: x.flatten(2).mT for tap in taps}


def straight():
    return Denoiser(Straight(), Linear(), Velocity(), time_scale=1.0)


class Line(nn.Module):
    """v = a x + b, with parameters."""

    reads = ("guidance", "until")

    def __init__(self, a=0.3, b=0.1):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(float(value), dtype=torch.float64)) for value in (a, b))
        self.calls = []

    def forward(self, x, time, cond, taps=()):
        self.calls.append((x, time, cond))
        return self.a * x + self.b, {tap: x.flatten(2).mT for tap in taps}


def line(path=None, prediction=None, **numbers):
    return Denoiser(Line(**numbers), path or Linear(), prediction or Velocity(), time_scale=1.0)


def teacher(path=None, prediction=None):
    return oracle(gaussian(MEAN, STD), path or Linear(), prediction or Velocity())


def batch_of(rows=16, step=3, value=0.0, seed=7):
    rng = RowRng(seed, step, torch.arange(rows), rows)
    x0 = MEAN + STD * rng.normal("data", *SHAPE, dtype=torch.float64)
    return Batch(x0, texts(rows, value), texts(1)), rng


def bound(method, student, taught=None, guidance=None):
    method.bind(student, Roles(teacher=taught or teacher(), guidance=guidance))
    return method
