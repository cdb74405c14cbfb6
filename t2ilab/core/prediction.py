"""What a network predicts: one pair of coefficients (a, b), network output = a x0 + b eps.

Together with the input, x_t = alpha x0 + sigma eps, the output is a 2 x 2 system for (x0, eps):

    det = a sigma - b alpha                                                                             (1)
    x0  = (sigma out - b x_t) / det,    eps = (a x_t - alpha out) / det                                 (2)

and everything else follows from x0 and eps. At equal x_t an error of the output is det times an error common
to all predictions, so mean squared errors of two predictions differ by the factor

    ||error_1||^2 / ||error_2||^2 = (det_1 / det_2)^2                                                   (3)

    prediction   a              b               det                 says nothing about
    X0           1              0               sigma               eps where sigma = 0
    Eps          0              1               -alpha              x0 where alpha = 0
    V            -sigma         alpha           -alpha^2 - sigma^2  -
    Velocity     alpha'         sigma'          -q                  -
    Score        0              -1 / sigma      alpha / sigma       x0 where alpha = 0
    EDM          sigma/(d R)    -alpha d / R    R / d               -      R^2 = sigma^2 + alpha^2 d^2

where d is EDM's sigma_data.
Source: Salimans and Ho 2022, arXiv 2202.00512; Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2ilab.core.path import Path, at_least_float32, like_rows

_TINY = 1e-12  # stands for zero in a divisor: limits that exist come out exactly, others are huge, not nan
_LARGEST_LOG_SNR = 30.0  # beyond it EDM's noise input is held constant


class System(NamedTuple):
    """Coefficients of one or several times: tensors (B,), or plain numbers where all rows share one time."""

    alpha: Any
    sigma: Any
    dalpha: Any
    dsigma: Any
    a: Any
    b: Any
    det: Any


class Prediction(ABC):
    """Meaning of a network's output, and of the inputs that go with it."""

    @abstractmethod
    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at the times t, each shaped like t."""

    def target(self, path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """a x0 + b eps, what a perfect network would return if it knew x0 and eps; (B, ...), t (B,)."""
        a, b = self.coefficients(path, t)
        x0, eps = at_least_float32(x0), at_least_float32(eps)
        return like_rows(a, x0) * x0 + like_rows(b, eps) * eps

    def scale(self, path: Path, t: Tensor) -> Tensor:
        """sqrt(a^2 + b^2), the std of the target for data of unit variance, shaped like t."""
        return torch.hypot(*self.coefficients(path, t))

    def determinant(self, path: Path, t: Tensor) -> Tensor:
        """det = a sigma - b alpha, eq. (1), shaped like t."""
        a, b = self.coefficients(path, t)
        return a * path.sigma(t) - b * path.alpha(t)

    def system(self, path: Path, t: Tensor) -> System:
        """All coefficients at the times t, with 1e-12 in place of an alpha or sigma that is zero."""
        alpha, sigma = path.alpha(t).clamp(min=_TINY), path.sigma(t).clamp(min=_TINY)
        a, b = self.coefficients(path, t)
        return System(alpha, sigma, path.dalpha(t), path.dsigma(t), a, b, a * sigma - b * alpha)

    def resolve(
        self, path: Path, out: Tensor, x_t: Tensor, t: Tensor, taps: dict[str, Tensor] | None = None
    ) -> Estimate:
        """The estimate that a network output stands for, eq. (2), in the precision of x_t or better."""
        x_t = at_least_float32(x_t)
        return Estimate(out.to(x_t.dtype), x_t, t, path, self, {} if taps is None else taps)

    def input_scale(self, path: Path, t: Tensor) -> Tensor | None:
        """Factor on x_t before it enters the network, shaped like t; None stands for 1."""
        return None

    def time_input(self, path: Path, t: Tensor) -> Tensor:
        """What the network is told about t, before the denoiser's time scale."""
        return t


class X0(Prediction):
    """The clean data."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


class Eps(Prediction):
    """The noise. Source: Ho et al. 2020 (DDPM), arXiv 2006.11239."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class V(Prediction):
    """alpha eps - sigma x0, which on the linear path is not the velocity. Source: arXiv 2202.00512."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return -path.sigma(t), path.alpha(t)


class Velocity(Prediction):
    """alpha' x0 + sigma' eps; eps - x0 on the linear path. Source: Lipman et al. 2022, arXiv 2210.02747."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.dalpha(t), path.dsigma(t)


class Score(Prediction):
    """grad log p_t(x) = -E[eps | x] / sigma, unbounded as sigma -> 0. Source: arXiv 2011.13456."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1.0 / path.sigma(t).clamp(min=_TINY)


class EDM(Prediction):
    """EDM's F: x0 = c_skip y + c_out F(c_in y, ln(s) / 4), with y = x_t / alpha and s = sigma / alpha.

    Solved for F this is the row of the table above; its input is x_t / R, which has unit variance, and its
    target too, for data of std sigma_data, so the plain squared error of F is EDM's weighted
    loss. A backbone made for ln(s) / 4 wants the denoiser's time_scale at 1.

    Args:
        sigma_data: std of the data, d above; 1 for our latents, 0.5 for EDM's images.
    Source: Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1.
    """

    def __init__(self, sigma_data: float = 1.0) -> None:
        if not sigma_data > 0:
            raise ValueError(f"prediction.sigma_data must be positive, got {sigma_data}")
        self.sigma_data = sigma_data

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        root = self._root(path, t)
        return path.sigma(t) / (self.sigma_data * root), -self.sigma_data * path.alpha(t) / root

    def input_scale(self, path: Path, t: Tensor) -> Tensor | None:
        return 1.0 / self._root(path, t)

    def time_input(self, path: Path, t: Tensor) -> Tensor:
        return -0.125 * path.log_snr(t).clamp(-_LARGEST_LOG_SNR, _LARGEST_LOG_SNR)

    def _root(self, path: Path, t: Tensor) -> Tensor:
        return torch.sqrt(path.sigma(t) ** 2 + (self.sigma_data * path.alpha(t)) ** 2)


@dataclass
class Estimate:
    """What a denoiser says about one batch. x0, eps, velocity and so on are made when they are asked for.

    Attributes:
        out: network output, (B, ...) float32 or float64.
        x_t: the input it belongs to, same shape.
        t: times, (B,).
        path, prediction: how to read `out`.
        taps: hidden states that were asked for, {tap: (B, N, width)}.
        numbers: the coefficients at t, if somebody has them already; samplers do.
        visible: where `out` says something of the image, (B or 1, C or 1, H or 1, W or 1) bool; None for
            everywhere.
        kept: where the network left image tokens out, which of them stayed, (B, K); else None.
        grid: rows and columns of all image tokens, where the network left some out; else None.
    """

    out: Tensor
    x_t: Tensor
    t: Tensor
    path: Path
    prediction: Prediction
    taps: dict[Any, Tensor] = field(default_factory=dict)
    numbers: System | None = None
    visible: Tensor | None = None
    kept: Tensor | None = None
    grid: tuple[int, int] | None = None

    def kept_in(self, hidden: Tensor) -> Tensor | None:
        """Which tokens hidden states (B, n, D) belong to, (B, n); None for all in their order."""
        few = self.kept is not None and hidden.shape[1] == self.kept.shape[1]
        return self.kept if few else None

    def mean(self, error: Tensor) -> Tensor:
        """The mean of an error (B, C, H, W) over what the network says something about, (B,)."""
        if self.visible is None:
            return error.flatten(1).mean(1)
        seen = torch.where(self.visible, error, 0.0).flatten(1).sum(1)
        return seen / self.visible.expand_as(error).flatten(1).sum(1)

    def output_error(self, x0: Tensor, eps: Tensor) -> Tensor:
        """out - target (B, C, H, W); times sigma for a score, which is thereby taken for one of -eps."""
        error = self.out - self.prediction.target(self.path, x0, eps, self.t)
        return (
            like_rows(self.path.sigma(self.t), error) * error if isinstance(self.prediction, Score) else error
        )

    @cached_property
    def system(self) -> System:
        """The coefficients at t."""
        return self.numbers or self.prediction.system(self.path, self.t)

    @cached_property
    def x0(self) -> Tensor:
        """E[x0 | x_t]. Not determined where det = 0: for Eps and Score at alpha = 0."""
        return self.out if isinstance(self.prediction, X0) else self._read(1.0, 0.0)

    @cached_property
    def eps(self) -> Tensor:
        """E[eps | x_t]. Not determined where det = 0: for X0 at sigma = 0."""
        return self.out if isinstance(self.prediction, Eps) else self._read(0.0, 1.0)

    def velocity(self) -> Tensor:
        """u = alpha' x0 + sigma' eps = E[dx_t/dt | x_t].

        Not determined for X0 at sigma = 0 and for Eps and Score at alpha = 0.
        """
        if isinstance(self.prediction, Velocity):
            return self.out
        return self._read(self.system.dalpha, self.system.dsigma)

    def score(self) -> Tensor:
        """-eps / sigma = grad log p_t(x_t); infinite at sigma = 0, whatever the prediction."""
        return self.out if isinstance(self.prediction, Score) else self._read(0.0, -1.0 / self.system.sigma)

    def read(self, space: Prediction) -> Tensor:
        """The same estimate as another prediction would state it."""
        return self._read(*space.coefficients(self.path, self.t))

    def _read(self, to_a: float | Tensor, to_b: float | Tensor) -> Tensor:
        """to_a x0 + to_b eps with (x0, eps) of eq. (2), as of_x x_t + of_out out."""
        system = self.system
        of_out = (to_a * system.sigma - to_b * system.alpha) / system.det
        of_x = (to_b * system.a - to_a * system.b) / system.det
        if not isinstance(of_out, Tensor):
            return (self.x_t * of_x).add_(self.out, alpha=of_out)
        return torch.addcmul(like_rows(of_x, self.x_t) * self.x_t, like_rows(of_out, self.out), self.out)
