"""Denoising score matching: regress on the score of the noisy data."""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.prediction import Eps
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.types import Batch
from t2ilab.core.weighting import Likelihood
from t2ilab.objectives.base import Losses, Regression, weighted_error


class ScoreMatching(Regression):
    """L(t) = lambda(t) mean_CHW ||s_theta(x_t, t, c) + eps / sigma||^2.

    The error of the score is that of eps divided by sigma, which is how it is computed:
    lambda = sigma^2 ("simple") gives the eps error, lambda = g^2 / 2 ("likelihood") the eps error times
    g^2 / (2 sigma^2), which bounds the negative log-likelihood.

    Args:
        timestep, max_weight: as in Regression.
        likelihood: lambda = g^2 / 2 instead of sigma^2.
    Source: Song et al. 2021, arXiv 2011.13456, eq. 7, and arXiv 2101.09258, eq. 7.
    """

    def __init__(
        self, timestep: TimestepSampler, *, likelihood: bool = False, max_weight: float = 400.0
    ) -> None:
        super().__init__(timestep, Likelihood() if likelihood else None, max_weight=max_weight)

    def forward(self, batch: Batch, player: str, rng: RowRng) -> Losses:
        t, eps = self.draw(batch, rng)
        return Losses({"score_matching": self.loss_at(batch, eps, t)}, t)

    def loss_at(self, batch: Batch, eps: Tensor, t: Tensor) -> Tensor:
        x_t = self.student.path.mix(batch.x0, eps, t)
        estimate = self.student(x_t, t, batch.condition)
        return weighted_error(
            estimate, batch.x0, eps, space=Eps(), weighting=self.weighting, max_weight=self.max_weight
        )
