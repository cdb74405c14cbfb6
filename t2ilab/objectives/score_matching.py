"""Denoising score matching: regress on the score of the noisy data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from t2ilab.core.prediction import Eps, Estimate
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.weighting import Likelihood
from t2ilab.objectives.base import Regression, weighted_error
from t2ilab.objectives.terms.base import Term


class ScoreMatching(Regression):
    """L(t) = lambda(t) mean_CHW ||s_theta(x_t, t, c) + eps / sigma||^2.

    The error of the score is that of eps divided by sigma, which is how it is computed:
    lambda = sigma^2 ("simple") gives the eps error, lambda = g^2 / 2 ("likelihood") the eps error times
    g^2 / (2 sigma^2), which bounds the negative log-likelihood.

    Args:
        timestep, max_weight, terms: as in Regression.
        likelihood: lambda = g^2 / 2 instead of sigma^2.
    Source: Song et al. 2021, arXiv 2011.13456, eq. 7, and arXiv 2101.09258, eq. 7.
    """

    name = "score_matching"

    def __init__(
        self,
        timestep: TimestepSampler,
        *,
        likelihood: bool = False,
        max_weight: float = 400.0,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        weighting = Likelihood() if likelihood else None
        super().__init__(timestep, weighting, max_weight=max_weight, terms=terms)

    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        return weighted_error(
            estimate, x0, eps, space=Eps(), weighting=self.weighting, max_weight=self.max_weight
        )
