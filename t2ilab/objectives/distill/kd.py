"""Knowledge distillation: a smaller network learns from data, from the larger one's output, and from its insides.

    L = w_task mean (out_S - target)^2 + w_out mean (out_S - out_T)^2
        + w_feature mean_l mean (P_l h_S - h_T)^2 / var(h_T)

at equal x_t, t and text, without guidance: the student is guided afterwards as its teacher is. P_l is a learned
projection where widths differ and else nothing; the variance is that of each layer in the batch, so that no layer
outweighs the others.
Source: Kim et al. 2023 (BK-SDM), arXiv 2305.15798, which sums over layers without the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.build import Node
from t2ilab.core.path import Path
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler, fixed
from t2ilab.core.types import Batch
from t2ilab.objectives.distill.base import Distillation, Drawing
from t2ilab.objectives.distill.smaller import matched_taps, of_the_same_kind, smaller, take_over
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput


class KD(Distillation):
    """The loss above.

    Args:
        timestep: distribution of the times.
        keep: share of the teacher's parameters that the student keeps, in (0, 1]; unless `model=` says its network.
        task, output, feature: weights of the three parts, not negative.
        terms: further terms, by name.
    """

    name = "kd"

    def __init__(
        self,
        timestep: TimestepSampler,
        *,
        keep: float,
        task: float,
        output: float,
        feature: float,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(terms=terms)
        if not 0 < keep <= 1:
            raise ValueError(f"loss.keep must be in (0, 1], got {keep}")
        if min(task, output, feature) < 0 or task + output + feature == 0:
            raise ValueError(
                "loss.task, loss.output and loss.feature must not be negative, nor all 0, got "
                f"{task}, {output} and {feature}"
            )
        self.timestep, self.keep = fixed(timestep), keep
        self.weights = {"task": task, "output": output, "feature": feature}

    def drawing(self, path: Path) -> Drawing:
        return Drawing(as_teacher=True)

    def student_model(self, model: Node, chosen: Node | None = None) -> dict[str, Any]:
        return smaller(model, self.keep) if chosen is None else of_the_same_kind(model, chosen)

    def take_over(self, student: nn.Module, teacher: nn.Module) -> None:
        take_over(student, teacher)

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        networks = self.student.backbone, self.teacher.backbone
        self.pairs = matched_taps(*networks) if self.weights["feature"] else []
        patches = [getattr(network, "patch_size", 1) for network in networks]
        if self.pairs and patches[0] != patches[1]:
            raise ValueError(
                f"loss.feature: hidden states of patches of {patches[0]} and of {patches[1]} cannot be compared; "
                f"choose loss.feature=0 or model.patch_size={patches[1]}"
            )
        widths = [(self.student.tap_width(own), self.teacher.tap_width(other)) for own, other in self.pairs]
        self.projectors = nn.ModuleList(nn.Identity() if a == b else nn.Linear(a, b) for a, b in widths)

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        t = self.timestep(rng)
        x_t = self.path.mix(batch.x0, eps, t)
        own, others = ([pair[side] for pair in self.pairs] for side in (0, 1))
        with torch.no_grad():
            taught: Estimate = self.teacher(x_t, t, batch.condition, others)
        estimate: Estimate = self.student(x_t, t, batch.condition, [*self.terms.taps(rng.step), *own])
        parts = {
            "task": estimate.mean(estimate.output_error(batch.x0, eps).square()),
            "output": estimate.mean((estimate.out - taught.out).square()),
            "feature": self.feature_error(estimate, taught),
        }
        counted = {name: self.weights[name] * part.float() for name, part in parts.items()}
        total = torch.stack(list(counted.values())).sum(0)
        losses = self.with_terms(total, TermInput(batch, eps, t, estimate, rng))
        notes = {f"kd_{name}": part.detach().float() for name, part in parts.items()}
        return Losses(losses.terms, losses.t, losses.weights, notes, losses.kept)

    def feature_error(self, estimate: Estimate, taught: Estimate) -> Tensor:
        """The last part, (B,)."""
        errors = [
            _relative(projector(estimate.taps[own].float()), taught.taps[other].float())
            for projector, (own, other) in zip(self.projectors, self.pairs, strict=True)
        ]
        return torch.stack(errors).mean(0) if errors else torch.zeros_like(estimate.t)


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """mean (found - wanted)^2 of every row over the variance of `wanted` in the batch, (B,)."""
    return (found - wanted).square().flatten(1).mean(1) / wanted.var().clamp(min=1e-8)
