"""Flow matching: regress on the velocity of the path."""

from __future__ import annotations

from torch import Tensor, nn

from t2ilab.core.prediction import Estimate, Velocity
from t2ilab.objectives.base import Regression, restated
from t2ilab.objectives.roles import NOBODY, Roles

VELOCITY = Velocity()


class FlowMatching(Regression):
    """L(t) = w(t) mean_CHW (v - v_theta(x_t, t, c))^2 with v = alpha' x0 + sigma' eps.

    v is eps - x0 on the linear path. The network may predict anything: its error is restated as one of the
    velocity, so an x0 network on the linear path has x0 error / max(t, 0.05)^2 (JiT).

    With a network that returns zero and data of unit variance the loss is 2 on the linear path at every t;
    its floor on such data, were they Gaussian, is pi / 2 for uniform times.
    Source: Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003.
    """

    name = "flow_matching"

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        if self.weighting is None or self.weighting.space is None:
            self.check_scale(VELOCITY, self.student.path)

    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        w = restated(estimate, VELOCITY, self.weighting, self.max_weight)
        if not isinstance(estimate.prediction, Velocity):
            return w * estimate.mean(estimate.output_error(x0, eps).square())
        v, v_theta = VELOCITY.target(estimate.path, x0, eps, estimate.t), estimate.velocity()
        return w * estimate.mean((v - v_theta).square())
