"""Beta-distributed times, whose quantile function has no formula.

In x = logit(t) the density f(x) = t^alpha (1 - t)^beta / B(alpha, beta) is smooth and falls like e^(alpha x) and
e^(-beta x), so a table of its integral F on even steps of x, by Simpson's rule, is exact to about ten digits, and
Newton's method finds F(x) = level between two steps of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from t2ilab.core.tables import Tables
from t2ilab.core.timestep import TimeDistribution

_STEPS = 8192
_TAIL = math.log(1e-17)  # logarithm of the share that the table leaves out on either side
_NEWTON = 4
_LEAST_AREA = 1e-300  # divisor for a step so far out that its area is lost beside 1


@dataclass(frozen=True, eq=False)
class Beta(TimeDistribution):
    """t ~ Beta(alpha, beta), density t^(alpha - 1) (1 - t)^(beta - 1) / B(alpha, beta).

    Attributes:
        alpha, beta: at least 0.1; alpha > beta means more noise, both below 1 favour the ends.
    Source: Black et al. 2024 (pi0), arXiv 2410.24164, appendix B, whose clock runs the other way.
    """

    alpha: float = 1.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha >= 0.1 and self.beta >= 0.1):
            raise ValueError(
                f"timestep.alpha and timestep.beta must be at least 0.1, got {self.alpha} and {self.beta}"
            )
        super().__post_init__()

    def base_log_density(self, t: Tensor) -> Tensor:
        return (self.alpha - 1.0) * t.log() + (self.beta - 1.0) * torch.log1p(-t) - self._log_beta

    def base_quantile(self, level: Tensor) -> Tensor:
        edge, area = self._table.on(level.device)
        i = (torch.searchsorted(area, level, right=True) - 1).clamp(0, _STEPS - 1)
        start, end, rest = edge[i], edge[i + 1], level - area[i]
        x = start + (end - start) * (rest / (area[i + 1] - area[i]).clamp(min=_LEAST_AREA)).clamp(0.0, 1.0)
        for _ in range(_NEWTON):
            x = (x - (self._integral(start, x) - rest) / self._logit_density(x)).clamp(start, end)
        return torch.sigmoid(x)

    @cached_property
    def _log_beta(self) -> float:
        return math.lgamma(self.alpha) + math.lgamma(self.beta) - math.lgamma(self.alpha + self.beta)

    @cached_property
    def _table(self) -> Tables:
        """The steps in x and the integral of f up to each, (_STEPS + 1,) float64 each.

        They end where the bounds e^(alpha x) / (alpha B) and e^(-beta x) / (beta B) of the tails are 1e-17.
        """
        lowest = (_TAIL + math.log(self.alpha) + self._log_beta) / self.alpha
        highest = -(_TAIL + math.log(self.beta) + self._log_beta) / self.beta
        edge = torch.linspace(lowest, highest, _STEPS + 1, dtype=torch.float64, device="cpu")
        area = torch.cat([edge.new_zeros(1), self._integral(edge[:-1], edge[1:]).cumsum(0)])
        return Tables(edge, area / area[-1])

    def _integral(self, start: Tensor, end: Tensor) -> Tensor:
        """The integral of f over one step, by Simpson's rule."""
        middle = self._logit_density(0.5 * (start + end))
        return (end - start) / 6.0 * (self._logit_density(start) + 4.0 * middle + self._logit_density(end))

    def _logit_density(self, x: Tensor) -> Tensor:
        return torch.exp(self.alpha * logsigmoid(x) + self.beta * logsigmoid(-x) - self._log_beta)
