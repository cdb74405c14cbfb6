"""Flow matching: regress on the velocity of the path."""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import Estimate, Velocity
from t2ilab.objectives.base import Regression, weighted_error
from t2ilab.objectives.terms.base import Averaged


class FlowMatching(Regression):
    """L(t) = w(t) mean_CHW ||u_theta(x_t, t, c) - u||^2 with u = alpha' x0 + sigma' eps.

    u is eps - x0 on the linear path. The network may predict anything: its error is restated as one of the
    velocity, so an x0 network on the linear path has x0 error / max(t, 0.05)^2 (JiT).

    With a network that returns zero and data of unit variance the loss is 2 on the linear path at every t;
    its floor on such data, were they Gaussian, is pi / 2 for uniform times.
    Source: Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003.
    """

    name = "flow_matching"

    def bind(self, student: Denoiser, averaged: Averaged | None = None) -> None:
        if self.weighting is None or self.weighting.space is None:
            self.check_scale(Velocity(), student.path)
        super().bind(student, averaged)

    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        return weighted_error(
            estimate,
            x0,
            eps,
            space=Velocity(),
            weighting=self.weighting,
            max_weight=self.max_weight,
        )
