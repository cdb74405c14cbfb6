"""Noise processes of a thousand steps, as DDPM and Stable Diffusion were trained, made continuous.

Step k = 0 .. N - 1 keeps abar_k = (1 - beta_0) ... (1 - beta_k) of the variance and stands at the time
t = (k + 1) / N; t = 0 is clean. Published networks of such processes are told k, not k + 1: `counted_from_zero`. With
the betas evenly spaced in their power 1 / p,

    beta_k = (b0^(1/p) + k / (N - 1) (b1^(1/p) - b0^(1/p)))^p,                                          (1)

p = 1 is DDPM's "linear" and p = 2 Stable Diffusion's "scaled_linear". Between the steps alpha is the monotone cubic
of Fritsch and Carlson 1980 through alpha_k = sqrt(abar_k): alpha, alpha' and with them the log SNR and its slope are
continuous, and at the steps alpha is exactly that of the discrete process.

Zero terminal SNR (Lin et al. 2023, arXiv 2305.08891, algorithm 1) is the affine change

    alpha_k <- (alpha_k - alpha_{N-1}) alpha_0 / (alpha_0 - alpha_{N-1})                                (2)

which leaves the first step as it is and no data in the last one. There an eps network says nothing about the data:
train v, x0 or the velocity, sample from t = 1, and rescale guidance (guidance.rescale=0.7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.core.inverse import inverse
from t2ilab.core.path import VariancePreserving
from t2ilab.core.tables import Tables


class Discrete(VariancePreserving):
    """The path of eq. (1), with eq. (2) on request.

    Computes in float64 and answers in the precision of t: near t = 0 float32 would lose sigma in 1 - alpha^2.

    Args:
        beta_start, beta_end: b0 and b1, 0 < b0 <= b1 < 1.
        power: p.
        steps: N, at least 2.
        zero_terminal_snr: whether no data is left at t = 1.
    Source: Ho et al. 2020, arXiv 2006.11239; Rombach et al. 2022, arXiv 2112.10752 and its code.
    """

    def __init__(
        self,
        beta_start: float,
        beta_end: float,
        *,
        power: float = 1.0,
        steps: int = 1000,
        zero_terminal_snr: bool = False,
    ) -> None:
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"path needs 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")
        if not (power > 0 and steps >= 2):
            raise ValueError(f"path needs power > 0 and steps >= 2, got {power} and {steps}")
        self.beta_start, self.beta_end, self.power = beta_start, beta_end, power
        self.steps, self.zero_terminal_snr = steps, zero_terminal_snr
        alpha = self._at_steps()
        self._tables = Tables(alpha, _monotone_slopes(alpha))

    @property
    def counted_from_zero(self) -> dict[str, float]:
        """Keywords of a `Denoiser` whose network is told k at the time of step k, as the published ones are."""
        return {"time_scale": float(self.steps), "time_offset": -1.0}

    def _at_steps(self) -> Tensor:
        """alpha at t = 0, 1 / N .. 1, (N + 1,) float64."""
        start, end = self.beta_start ** (1 / self.power), self.beta_end ** (1 / self.power)
        betas = torch.linspace(start, end, self.steps, dtype=torch.float64, device="cpu") ** self.power
        alpha = torch.cumprod(1.0 - betas, 0).sqrt()
        if self.zero_terminal_snr:
            alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        return torch.cat([alpha.new_ones(1), alpha])

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha_at(t).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        alpha = self._alpha_at(t)
        return torch.sqrt((1.0 - alpha) * (1.0 + alpha)).to(t.dtype)

    def dalpha(self, t: Tensor) -> Tensor:
        """The slope of the cubic, per unit of t."""
        x, y0, y1, m0, m1 = self._piece(t)
        slope = 6.0 * x * (1.0 - x) * (y1 - y0) + (1.0 - x) * (1.0 - 3.0 * x) * m0 + x * (3.0 * x - 2.0) * m1
        return (self.steps * slope).to(t.dtype)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """By bisection; infinite for less data than is left at t = 1. Derivatives follow `path.py`, eq. (1)."""
        wanted = -log_snr.double()
        t = inverse(lambda t: -self.log_snr(t), wanted)
        slope = 2.0 * self.q(t) / (self.alpha(t) * self.sigma(t))
        t = t + torch.where(wanted.isfinite(), (wanted - wanted.detach()) / slope, 0.0)  # bisection has none
        beyond = wanted > -self.log_snr(torch.ones_like(wanted)) + 1e-9
        return torch.where(beyond, torch.inf, t).to(log_snr.dtype)

    def _alpha_at(self, t: Tensor) -> Tensor:
        """The cubic of Hermite in the step that t falls into, float64."""
        x, y0, y1, m0, m1 = self._piece(t)
        rest = 1.0 - x
        near, far = rest * rest * (1.0 + 2.0 * x), x * x * (3.0 - 2.0 * x)
        return near * y0 + far * y1 + x * rest * rest * m0 - x * x * rest * m1

    def _piece(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Place inside the step, then alpha and slope (per step) at its ends."""
        place = t.double() * self.steps
        k = place.floor().long().clamp(0, self.steps - 1)
        alpha, slope = self._tables.on(t.device)
        return place - k, alpha[k], alpha[k + 1], slope[k], slope[k + 1]


def _monotone_slopes(y: Tensor) -> Tensor:
    """Slopes at even places through which the cubics of Hermite are monotone where y is, like y.

    Inside the harmonic mean of the two neighbouring differences, at the ends the one difference.
    """
    step = y.diff()
    product = step[1:] * step[:-1]
    inside = torch.where(product > 0, 2.0 * product / (step[1:] + step[:-1]), 0.0)
    return torch.cat([step[:1], inside, step[-1:]])
