"""CFG-Zero*: classifier-free guidance from the part of the unconditional velocity that points along the other.

Early in training, and at high noise, the two velocities differ in length more than they should; guidance then
amplifies the error. Projected on each other, with s = <u_c, u_u> / |u_u|^2,

    u = s u_u + w (u_c - s u_u)                                                                         (1)

is u_c for w = 1, and for every w where the two are parallel.
Source: Fan et al. 2025, arXiv 2503.18886. Their code leaves out the first step by default (zero_steps=0 there is
1 here).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from t2ilab.core.guidance import IntervalCFG
from t2ilab.core.prediction import Estimate, Velocity


class CFGZero(IntervalCFG):
    """Eq. (1), on the velocity whatever the network predicts; the first steps may have zero velocity.

    Args:
        scale, low, high: as in IntervalCFG; outside the interval the conditional model is sampled.
        zero_steps: first steps of a sampling run whose velocity is 0: the state stays, nothing is evaluated.
        rescale: as in CFG, here of the velocity.
    """

    def __init__(
        self,
        scale: float = 3.0,
        zero_steps: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(scale, low, high, rescale)
        if zero_steps < 0:
            raise ValueError(f"guidance.zero_steps must not be negative, got {zero_steps}")
        self.still_steps = zero_steps

    def guide(self, estimate: Estimate, without: Tensor, scale: float | Tensor) -> Estimate:
        conditional, null = estimate.velocity(), replace(estimate, out=without).velocity()
        return with_velocity(estimate, self.combine(conditional, projection(conditional, null), scale))


def projection(onto: Tensor, velocity: Tensor) -> Tensor:
    """s u with s = <onto, u> / (|u|^2 + 1e-8) per sample, over all dimensions but the first."""
    dims = tuple(range(1, velocity.ndim))
    along = (onto * velocity).sum(dims, keepdim=True)
    return along / (velocity.square().sum(dims, keepdim=True) + 1e-8) * velocity


def with_velocity(estimate: Estimate, velocity: Tensor) -> Estimate:
    """The estimate at the same (x_t, t) with this velocity, stated as the same prediction states it."""
    if isinstance(estimate.prediction, Velocity):
        return replace(estimate, out=velocity)
    other = Velocity().resolve(estimate.path, velocity, estimate.x_t, estimate.t)
    return replace(estimate, out=other.read(estimate.prediction))
