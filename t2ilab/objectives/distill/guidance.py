"""Guidance distillation: the guided teacher's answer in one evaluation.

    L(t, s) = w mean_CHW (out_S(x_t, t, c[, s]) - out_T^s(x_t, t, c))^2

with out_T^s = out_null + s (out - out_null). The scale s is fixed, or drawn from a range and told to the student.
Source: Meng et al. 2023, arXiv 2210.03142, section 3.1 (their w is s - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler, fixed
from t2ilab.core.types import Batch
from t2ilab.objectives.distill.base import Distillation, Drawing
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.terms.base import Term, TermInput


class GuidanceDistillation(Distillation):
    """The student keeps the teacher's number of steps and needs half the evaluations.

    Args:
        timestep: distribution of the times.
        scale, scales, terms: as in Distillation.
    """

    name = "guidance"

    def __init__(
        self,
        timestep: TimestepSampler,
        *,
        scale: float | None,
        scales: Sequence[float] | None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(scale=scale, scales=scales, terms=terms)
        self.timestep = fixed(timestep)

    def drawing(self, path: Path) -> Drawing:
        return Drawing(scale=self.told_scale)

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        t = self.timestep(rng)
        x_t = self.path.mix(batch.x0, eps, t)
        taught = self.guided(batch, x_t, t, scales)
        estimate = self.answer(x_t, t, self.told(batch.condition, scales), rng)
        loss = estimate.mean((estimate.out - taught.out).square())
        return self.with_terms(loss, TermInput(batch, eps, t, estimate, rng, target=taught.x0))
