"""Denoising diffusion: regress on what the network predicts, or on the same stated in another space."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from t2ilab.core.prediction import Estimate, Prediction
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.base import Regression, weighted_error
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term


class Diffusion(Regression):
    """L(t) = w(t) mean_CHW ||F_theta(x_t, t, c) - (a x0 + b eps)||^2 with the coefficients of a prediction.

    With an eps network this is DDPM's simple loss, with EDM's F it is EDM's weighted loss.

    Args:
        timestep, weighting, max_weight, terms: as in Regression.
        space: the prediction whose error is meant; None for the network's own.
    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; Karras et al. 2022, arXiv 2206.00364, eq. 8.
    """

    name = "diffusion"

    def __init__(
        self,
        timestep: TimestepSampler,
        weighting: Weighting | None = None,
        *,
        space: Prediction | None = None,
        max_weight: float = 400.0,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(timestep, weighting, max_weight=max_weight, terms=terms)
        self.space = space

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        if self.weighting is None or self.weighting.space is None:
            self.check_scale(self.space or self.student.prediction, self.student.path)

    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        return weighted_error(
            estimate,
            x0,
            eps,
            space=self.space or self.student.prediction,
            weighting=self.weighting,
            max_weight=self.max_weight,
        )
