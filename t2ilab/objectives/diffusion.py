"""Denoising diffusion: regress on what the network predicts, or on the same stated in another space."""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import Prediction
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.types import Batch
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.base import Losses, Regression, weighted_error


class Diffusion(Regression):
    """L(t) = w(t) mean_CHW ||F_theta(x_t, t, c) - (a x0 + b eps)||^2 with the coefficients of a prediction.

    With an eps network this is DDPM's simple loss, with EDM's F it is EDM's weighted loss.

    Args:
        timestep, weighting, max_weight: as in Regression.
        space: the prediction whose error is meant; None for the network's own.
    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; Karras et al. 2022, arXiv 2206.00364, eq. 8.
    """

    def __init__(
        self,
        timestep: TimestepSampler,
        weighting: Weighting | None = None,
        *,
        space: Prediction | None = None,
        max_weight: float = 400.0,
    ) -> None:
        super().__init__(timestep, weighting, max_weight=max_weight)
        self.space = space

    def bind(self, student: Denoiser, teacher: Denoiser | None = None) -> None:
        if self.weighting is None or self.weighting.space is None:
            self.check_scale(self.space or student.prediction, student.path)
        super().bind(student, teacher)

    def forward(self, batch: Batch, player: str, rng: RowRng) -> Losses:
        t, eps = self.draw(batch, rng)
        return Losses({"diffusion": self.loss_at(batch, eps, t)}, t)

    def loss_at(self, batch: Batch, eps: Tensor, t: Tensor) -> Tensor:
        x_t = self.student.path.mix(batch.x0, eps, t)
        estimate = self.student(x_t, t, batch.condition)
        return weighted_error(
            estimate,
            batch.x0,
            eps,
            space=self.space or self.student.prediction,
            weighting=self.weighting,
            max_weight=self.max_weight,
        )
