"""Weights on the loss as a function of the noise level.

A weighting may be stated on the squared error of one prediction (`space`): an objective converts it to its
own error by eq. (3) of `prediction.py`, so min-SNR means the same training whatever the network predicts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.prediction import X0, Eps, Prediction, Velocity

_SMALLEST_SHARE = 1e-3  # divisors alpha and sigma of weights that are infinite at an end


class Weighting(ABC):
    """(t, path) -> weight, (B,), on the squared error in `space`; None stands for the objective's own."""

    space: Prediction | None = None

    @abstractmethod
    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """Weights of the samples, shaped like t."""

    def settle(self, error: Tensor, t: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        """What samples count with weighted errors (B,), and their loss: one that learns adds its own part."""
        return error, error


def _snr(t: Tensor, path: Path) -> Tensor:
    return (path.alpha(t) / path.sigma(t)) ** 2


def _likelihood(t: Tensor, path: Path) -> Tensor:
    """q / (alpha sigma) = -(1 / 2) d log SNR / dt, with alpha / sigma held between 1e-3 and 1e3."""
    t = t.clamp(*_bounded_times(path))
    return path.q(t) / (path.alpha(t) * path.sigma(t))


@lru_cache(maxsize=8)
def _bounded_times(path: Path) -> tuple[float, float]:
    """The times at which alpha / sigma is 1e3 and 1e-3; kept, as some paths have to search for them."""
    ends = torch.tensor([1.0, -1.0], dtype=torch.float64) * -2.0 * math.log(_SMALLEST_SHARE)
    first, last = path.time_of_log_snr(ends).tolist()
    return first, last


class Uniform(Weighting):
    """1 on the error of the objective, or of a prediction: eps is DDPM's simple loss, velocity is SD3's."""

    def __init__(self, space: Prediction | None = None) -> None:
        self.space = space

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return torch.ones_like(t)


class MinSNR(Weighting):
    """min(SNR, gamma) on the x0 error: min(SNR, gamma) / SNR on eps, min(SNR, gamma) / (SNR + 1) on v.

    Source: Hang et al. 2023, arXiv 2303.09556, eq. 6.
    """

    space = X0()

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"weighting.gamma must be positive, got {gamma}")
        self.gamma = gamma

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return _snr(t, path).clamp(max=self.gamma)


class P2(Weighting):
    """1 / (k + SNR)^gamma on the eps error. Source: Choi et al. 2022, arXiv 2204.00227, eq. 8."""

    space = Eps()

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if not (k > 0 and gamma >= 0):
            raise ValueError(f"weighting needs k > 0 and gamma >= 0, got {k} and {gamma}")
        self.k, self.gamma = k, gamma

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return (self.k + _snr(t, path)) ** -self.gamma


class Sigmoid(Weighting):
    """sigmoid(bias - l) (-dl/dt) on the eps error, l = log SNR: for uniform times an integral over l.

    As such it means the same on every path, and times of another density change it. It is bounded as Likelihood
    is. Source: Kingma and Gao 2023 (VDM++), arXiv 2303.00848, eq. 8; Hoogeboom et al. 2024 (SiD2), arXiv
    2410.19324, eq. 4.
    """

    space = Eps()

    def __init__(self, bias: float = -2.0) -> None:
        self.bias = bias

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return 2.0 * _likelihood(t, path) * torch.sigmoid(self.bias - path.log_snr(t))


class EDM(Weighting):
    """(s^2 + d^2) / (s d)^2 on the x0 error, s = sigma / alpha, d = sigma_data: weight 1 on EDM's F.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1. s is held above 1e-3.
    """

    space = X0()

    def __init__(self, sigma_data: float = 1.0) -> None:
        if not sigma_data > 0:
            raise ValueError(f"weighting.sigma_data must be positive, got {sigma_data}")
        self.sigma_data = sigma_data

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        inverse_level = path.alpha(t) / path.sigma(t).clamp(min=_SMALLEST_SHARE)
        return self.sigma_data**-2 + inverse_level**2


class CosMap(Weighting):
    """2 / (pi (1 - 2 t + 2 t^2)) on the velocity error. Source: Esser et al. 2024, arXiv 2403.03206."""

    space = Velocity()

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return 2.0 / (math.pi * (1.0 - 2.0 * t + 2.0 * t * t))


class SigmaSqrt(Weighting):
    """1 / t^2 on the velocity error, t held above `smallest`; name and rule are those of diffusers' SD3 scripts."""

    space = Velocity()

    def __init__(self, smallest: float = 1e-3) -> None:
        if not 0 < smallest < 1:
            raise ValueError(f"weighting.smallest must lie in (0, 1), got {smallest}")
        self.smallest = smallest

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return t.clamp(min=self.smallest) ** -2


class Likelihood(Weighting):
    """g^2 / (2 sigma^2) = q / (alpha sigma) on the eps error, the bound on the log-likelihood.

    alpha / sigma is held between 1e-3 and 1e3. Source: Song et al. 2021, arXiv 2101.09258, eq. 7-8.
    """

    space = Eps()

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        return _likelihood(t, path)
