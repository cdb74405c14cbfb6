"""Self-representation alignment: the student's early states predict its own average's later, less noisy ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.models.routing import pick
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput, TermWeight, tapped
from t2ilab.objectives.terms.repa import similarity


class SRA(Term):
    """-(1 / N) sum_n cos(g(h)_n, m_n): h the student's tap at (x_t, t), m the averaged student's deeper tap at t'.

    t' = max(t - reach u, 0) with u uniform per row, the same x0, noise and conditions. The teacher is the EMA of
    the student, without gradient; before its first update it is the student itself. It costs one more forward
    pass, of all tokens even where the student routes them. g is Linear(D, 2 D), SiLU, Linear(2 D, D').

    The official code takes this cosine over the token dimension; the paper's equation is over features, as here.

    Args:
        weight: 0.5 with the cosine.
        tap, teacher_tap: where student and teacher are read, the latter deeper; None for places that the model
            names, at one and two thirds of its depth.
        reach: largest difference of the two times, 0.2 in the paper.
    Source: Jiang et al. 2025, arXiv 2505.02831, eq. 5-7.
    """

    def __init__(
        self, weight: TermWeight, *, tap: str | None, teacher_tap: str | None, reach: float = 0.2
    ) -> None:
        super().__init__(weight)
        if not 0 <= reach <= 1:
            raise ValueError(f"terms.sra.reach must lie in [0, 1], got {reach}")
        self.tap, self.teacher_tap, self.reach = tap, teacher_tap, reach

    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        early, late = student.depths
        tap, width = tapped(student, self.tap, early)
        self.late, wanted = tapped(student, self.teacher_tap, late)
        self.taps = (tap,)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, wanted))
        self.__dict__["_student"], self.__dict__["_averaged"] = student, roles.averaged

    def forward(self, given: TermInput) -> Tensor:
        wanted = self.teach(given)
        hidden = given.estimate.taps[self.taps[0]]
        kept = given.estimate.kept_in(hidden)
        if kept is not None:
            wanted = pick(wanted, kept)
        if hidden.shape[1] != wanted.shape[1]:
            raise ValueError(
                f"terms.sra.tap={self.taps[0]} has {hidden.shape[1]} tokens and teacher_tap={self.late} "
                f"{wanted.shape[1]}: choose taps of one resolution"
            )
        return -similarity(self.head(hidden), wanted).mean(1)

    @torch.no_grad()
    def teach(self, given: TermInput) -> Tensor:
        """m, (B, N, D')."""
        student: Denoiser = self.__dict__["_student"]
        t = (given.t - self.reach * given.rng.to(given.t.device).uniform("sra")).clamp(min=0)
        x_t = student.path.mix(given.batch.x0, given.eps, t)
        weights = dict(self.__dict__["_averaged"]())
        estimate = torch.func.functional_call(student, weights, (x_t, t, given.batch.condition, (self.late,)))
        taps: dict[str, Tensor] = estimate.taps
        return taps[self.late]
