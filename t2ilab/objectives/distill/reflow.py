"""Reflow: the velocity is trained again on pairs (eps, x0) that the teacher's own ODE makes, which straightens it.

    L(t) = mean_CHW (v_S(x_t, t, c) - v)^2,    x_t = alpha x0 + sigma eps,    v = alpha' x0 + sigma' eps

with the eps from which the teacher drew x0. Trajectories of pairs do not cross as those of independent noise do, so
that few steps of Euler are enough; marginals stay. The teacher's guidance is in the pairs and is not applied again.
Source: Liu et al. 2022, arXiv 2209.03003, section 2.2 and its code, whose time runs the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.core.timestep import TimestepSampler, fixed
from t2ilab.core.types import Batch
from t2ilab.objectives.base import weighted_error
from t2ilab.objectives.distill.base import Distillation, Drawing, even_times
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.terms.base import Term, TermInput


class Reflow(Distillation):
    """The loss above.

    Args:
        timestep: distribution of the times.
        steps: evaluations that the export draws with.
        at_steps: only the times of these steps are trained: the distillation that follows reflow.
        shift: of the steps.
        terms: further terms, by name.
    """

    name: ClassVar[str] = "reflow"
    taught = False
    from_pairs = True

    def __init__(
        self,
        timestep: TimestepSampler,
        *,
        steps: int,
        at_steps: bool,
        shift: float | None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(terms=terms)
        self.timestep, self.steps, self.at_steps = fixed(timestep), steps, at_steps
        self.shift = 1.0 if shift is None else shift
        even_times(steps, self.shift)

    def drawing(self, path: Path) -> Drawing:
        return Drawing("ode", even_times(self.steps, self.shift))

    def times(self, rng: RowRng) -> Tensor:
        """(B,) float32."""
        if not self.at_steps:
            return self.timestep(rng)
        place = (rng.uniform("time", dtype=torch.float64) * self.steps).floor().clamp(max=self.steps - 1)
        return shift_time((place + 1) / self.steps, self.shift).float()

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        t = self.times(rng)
        estimate = self.answer(self.path.mix(batch.x0, eps, t), t, batch.condition, rng)
        loss = weighted_error(estimate, batch.x0, eps, space=Velocity())
        return self.with_terms(loss, TermInput(batch, eps, t, estimate, rng))
