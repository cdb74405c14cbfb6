"""Noise processes: x_t = alpha(t) x0 + sigma(t) eps, t = 0 clean, t = 1 noise.

With q(t) = sigma' alpha - alpha' sigma > 0 the quantities of one path hang together by

    log SNR  l = 2 ln(alpha / sigma),    dl/dt = -2 q / (alpha sigma)                                   (1)
    velocity u = alpha' x0 + sigma' eps                                                                 (2)
    forward SDE dx = f x dt + g dW with f = alpha'/alpha and g^2 = 2 sigma q / alpha                    (3)

Source: Kingma et al. 2021 (VDM), arXiv 2107.00630; Albergo et al. 2023, arXiv 2303.08797.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST_SIGMA = 1e-6  # keeps the infinite slope of sigma at t = 0 of the VP paths a finite number


def like_rows(values: Tensor, x: Tensor) -> Tensor:
    """Values of the rows, (B,) or (), shaped to multiply x (B, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def at_least_float32(x: Tensor) -> Tensor:
    """x itself in float32 or float64; lower precisions become float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class Path(ABC):
    """alpha, sigma and their derivatives, elementwise in t, in the precision of t (float32 or float64)."""

    prior_std: float = 1.0
    """The std of x at t = 1, what a sampler multiplies its normal noise by."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise."""

    @abstractmethod
    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def dsigma(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time at which 2 ln(alpha / sigma) has this value; the inverse of `log_snr`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln(alpha / sigma): plus infinity without noise, minus infinity without data."""
        return 2.0 * (self.alpha(t).log() - self.sigma(t).log())

    def q(self, t: Tensor) -> Tensor:
        """sigma' alpha - alpha' sigma, the determinant of (x, u) in (x0, eps); positive."""
        return self.dsigma(t) * self.alpha(t) - self.dalpha(t) * self.sigma(t)

    def squared_diffusion(self, t: Tensor) -> Tensor:
        """g^2 = 2 sigma q / alpha of the forward SDE, eq. (3); infinite where alpha = 0."""
        return 2.0 * self.sigma(t) * self.q(t) / self.alpha(t)

    def mix(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps, (B, ...) in float32 or better, for times (B,)."""
        x0, eps = at_least_float32(x0), at_least_float32(eps)
        return like_rows(self.alpha(t), x0) * x0 + like_rows(self.sigma(t), eps) * eps

    def clock(self, t: Tensor) -> Tensor:
        """The variable in which Euler and Heun step; t unless a path has a better one."""
        return t

    def dclock(self, t: Tensor) -> Tensor:
        """d clock / dt."""
        return torch.ones_like(t)


class Linear(Path):
    """Rectified flow: alpha = 1 - t, sigma = t, q = 1. Source: Liu et al. 2022, arXiv 2209.03003."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def dalpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


class Trig(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), q = pi / 2: the GVP path of SiT, arXiv 2401.08740.

    The cosine is written as the sine of the complement, which is exactly zero at t = 1.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * (1.0 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def dalpha(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-0.5 * log_snr)) * (2.0 / math.pi)


class VariancePreserving(Path):
    """alpha^2 + sigma^2 = 1, hence sigma' = -alpha alpha' / sigma and q = -alpha' / sigma.

    sigma grows like the square root of t, so sigma' and q have no finite value at t = 0; they are evaluated
    with sigma >= 1e-6 there.
    """

    def dsigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t).clamp(min=_SMALLEST_SIGMA)


class VPLinear(VariancePreserving):
    """The VP SDE with beta(t) = b0 + t (b1 - b0), alpha = exp(-t^2 (b1 - b0) / 4 - t b0 / 2).

    alpha(1) = 0.0066 at the default numbers: some data is left at t = 1.

    Args:
        beta_min, beta_max: b0 and b1 per unit of time; a thousandth of them is the beta of a discrete step.
    Source: Song et al. 2021, arXiv 2011.13456, eq. 33.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min < beta_max:
            raise ValueError(f"path needs 0 < beta_min < beta_max, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2.0 * self._log_alpha(t)))

    def dalpha(self, t: Tensor) -> Tensor:
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -0.5 * beta * self.alpha(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Root of t^2 (b1 - b0) / 4 + t b0 / 2 = softplus(-l) / 2, without cancellation."""
        doubled = functional.softplus(-log_snr)
        span = self.beta_max - self.beta_min
        return 2.0 * doubled / (self.beta_min + torch.sqrt(self.beta_min**2 + 2.0 * span * doubled))

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min


class VPCosine(VariancePreserving):
    """alpha = cos(phi) / cos(phi_0) with phi = (pi / 2) (t + s) / (1 + s); alpha(1) = 0 exactly.

    Args:
        shift: s, which keeps the first noise levels from being too small.
    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, without their cut of beta at 0.999.
    """

    def __init__(self, shift: float = 0.008) -> None:
        if not 0 < shift < 1:
            raise ValueError(f"path.shift must lie in (0, 1), got {shift}")
        self.shift = shift
        self._rate = 0.5 * math.pi / (1.0 + shift)
        self._cos_start = math.cos(self._rate * shift)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._rate * (1.0 - t)) / self._cos_start

    def sigma(self, t: Tensor) -> Tensor:
        """1 - alpha^2 = sin(phi - phi_0) sin(phi + phi_0) / cos^2(phi_0), precise near t = 0."""
        square = torch.sin(self._rate * t) * torch.sin(self._rate * (t + 2.0 * self.shift))
        return torch.sqrt(square) / self._cos_start

    def dalpha(self, t: Tensor) -> Tensor:
        return -self._rate * torch.cos(self._rate * (1.0 - t)) / self._cos_start

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        alpha = torch.sqrt(torch.sigmoid(log_snr))
        return 1.0 - torch.asin((self._cos_start * alpha).clamp(max=1.0)) / self._rate


class VE(Path):
    """Exploding variance: alpha = 1 and 1 / sigma = (1 - t) / t + 1 / sigma_max.

    sigma(0) = 0, sigma(1) = sigma_max, and up to the last term sigma = t / (1 - t), the noise level of
    x_t / alpha on the linear path: a logit-normal draw of t is EDM's log-normal draw of sigma, and one time
    grid fits both paths. Euler and Heun step in sigma itself, as EDM does.

    Args:
        sigma_max: the largest noise level: 80 for data of std 0.5, 160 for our latents of 1.
    Source: Karras et al. 2022 (EDM), arXiv 2206.00364; the clock is ours.
    """

    def __init__(self, sigma_max: float = 80.0) -> None:
        if not sigma_max > 1:
            raise ValueError(f"path.sigma_max must be larger than 1, got {sigma_max}")
        self.sigma_max = self.prior_std = float(sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t / (1.0 - t + t / self.sigma_max)

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return (1.0 - t + t / self.sigma_max) ** -2

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        sigma = torch.exp(-0.5 * log_snr)
        return sigma / (1.0 + sigma - sigma / self.sigma_max)

    def clock(self, t: Tensor) -> Tensor:
        return self.sigma(t)

    def dclock(self, t: Tensor) -> Tensor:
        return self.dsigma(t)
