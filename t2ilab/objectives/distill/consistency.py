"""Consistency models: one evaluation leads from any point of a trajectory to its end.

f(x_t, t) = x0^ is a consistency function of its own accord where f(x, 0) = x: for every prediction but x0 itself. For
two times t > r of one trajectory

    L = w(t, r) d(f(x_t, t), sg f_target(x_r, r))                                                           (1)

with d(a, b) = sqrt(|a - b|^2 + c^2) - c over a whole image (pseudo-Huber; c = 0 is the L2 norm) and

    distillation   x_r = one deterministic step of the guided teacher from x_t
    training       x_r = alpha_r x0 + sigma_r eps, with the eps of x_t: no teacher

The target is the student itself, or a slow copy of it: copies bias training without a teacher (iCT).
Source: Song et al. 2023, arXiv 2303.01469; Song and Dhariwal 2023 (iCT), arXiv 2310.14189, section 3.3, for
c = 0.00054 sqrt(D). That is for data of std 0.5; latents here have 1. As d of doubled images with 2 c is 2 d of the
images with c, theirs is doubled here as the noise levels are (levels.py): the same errors count as large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import X0
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.distill.base import Distillation, Drawing, Follower, moved
from t2ilab.objectives.distill.levels import Levels, Pair
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput

HUBER = 2 * 0.00054  # times the root of the numbers of an image: iCT's, for std 1


class Consistency(Distillation):
    """Eq. (1).

    Args:
        levels: which times are compared.
        teacher: distillation; false: training, which starts from the teacher's weights and asks it nothing.
        decay: of the slow copy that is the target; None for the student itself.
        huber: c; None for 0.00108 sqrt(D).
        steps: evaluations that the export draws with, with new noise between them.
        scale, scales, terms: as in Distillation.
    """

    name: ClassVar[str] = "consistency"

    def __init__(
        self,
        *,
        levels: Levels,
        teacher: bool,
        decay: float | None,
        huber: float | None,
        steps: int,
        scale: float | None,
        scales: Sequence[float] | None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(scale=scale, scales=scales, terms=terms)
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"loss.decay must be in [0, 1) or null, got {decay}")
        if huber is not None and not huber >= 0:
            raise ValueError(f"loss.huber must not be negative, got {huber}")
        if not teacher and (scale is not None or scales is not None):
            raise ValueError(
                "loss.scale and loss.scales guide a teacher, which loss.teacher=false leaves out"
            )
        self.levels, self.taught, self.decay, self.huber, self.steps = levels, teacher, decay, huber, steps

    def drawing(self, path: Path) -> Drawing:
        return Drawing("renoise", self.levels.sampling(self.steps, path), scale=self.told_scale)

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        if isinstance(self.student.prediction, X0):
            raise ValueError(
                f"loss={self.name}: a network that predicts x0 is no consistency function, as f(x, 0) = x does not "
                "hold; distil a model with prediction=velocity, v, eps or edm"
            )
        self.slow = None if self.decay is None else Follower(student)

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        pair = self.levels.pairs(rng, self.path)
        x_t = self.path.mix(batch.x0, eps, pair.t)
        wanted = self.target(batch, x_t, eps, pair, scales, rng.step)
        estimate = self.answer(x_t, pair.t, self.told(batch.condition, scales), rng)
        loss = pair.weight * self.distance(estimate.x0, wanted)
        return self.with_terms(loss, TermInput(batch, eps, pair.t, estimate, rng, target=wanted))

    @torch.no_grad()
    def target(  # noqa: PLR0917 what a trajectory is made of
        self, batch: Batch, x_t: Tensor, eps: Tensor, pair: Pair, scales: Tensor | None, step: int
    ) -> Tensor:
        """f_target(x_r, r), (B, C, H, W); x_r itself at r = 0."""
        if self.taught:
            x_r = moved(self.guided(batch, x_t, pair.t, scales), pair.r)
        else:
            x_r = self.path.mix(batch.x0, eps, pair.r)
        network = self.student
        if self.slow is not None and self.decay is not None:
            self.slow.follow(self.student, step, self.decay)
            network = self.slow
        ends = network(x_r, pair.r, self.told(batch.condition, scales)).x0
        return torch.where(like_rows(pair.r > 0, x_r), ends, x_r)

    def distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """d of every row, (B,), float32 or better."""
        c = HUBER * math.sqrt(found[0].numel()) if self.huber is None else self.huber
        return pseudo_huber(found, wanted, c)


def pseudo_huber(found: Tensor, wanted: Tensor, c: float) -> Tensor:
    """sqrt(|found - wanted|^2 + c^2) - c over each image, (B,), without the cancellation of small errors."""
    square = (found - wanted).square().flatten(1).sum(1)
    return square / (torch.sqrt(square + c**2 + 1e-20) + c)
