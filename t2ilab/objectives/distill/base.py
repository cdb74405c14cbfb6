"""What the methods of distillation share: a frozen teacher, its guidance, and how the student is drawn with.

A student answers in few steps what its teacher answers in many. With the teacher's guided estimate x0^, eps^ of x_t,
one deterministic step from t to r (DDIM; on the linear path Euler) is

    x_r = alpha_r x0^ + sigma_r eps^                                                                        (1)

Guidance scales are the standard ones everywhere, v_null + s (v - v_null), where 1 is none; LCM's w is s - 1.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from t2ilab.build import Node
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG, Guidance, NoGuidance
from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.core.types import Batch, Condition
from t2ilab.objectives.base import NOTHING, Objective
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput
from t2ilab.objectives.turns import STUDENT
from t2ilab.sampling.student import Kind


@dataclass(frozen=True)
class Drawing:
    """How a student is drawn with, which its export says.

    Attributes:
        kind, times: of `sampler=student`; None for the teacher's own sampler.
        scale: the standard guidance scale that the network is told; None where it is told none.
        as_teacher: guided by the teacher's own rule, because the student answers as the teacher does without.
    """

    kind: Kind | None = None
    times: tuple[float, ...] = ()
    scale: float | None = None
    as_teacher: bool = False


class RowScales(CFG):
    """CFG with a scale of its own for every row, (B,)."""

    def __init__(self, scales: Tensor) -> None:
        super().__init__(2.0)
        self.scales = scales

    def scale_at(self, t: float | Tensor) -> Tensor:
        return self.scales


class Distillation(Objective):
    """A method that imitates a frozen teacher. What a child says: `losses`, and `drawing` of its students.

    Args:
        scale: standard guidance scale of the teacher; None for the rule of its export.
        scales: least and largest scale, drawn evenly for every row and told to the student; None tells none.
        terms: further terms, by name.

    Attributes:
        name: of the main term.
        taught: whether it needs a teacher.
        from_pairs: whether it learns from noise and the image that the teacher made of it (data=pairs).
    """

    name: ClassVar[str]
    taught: bool = True
    from_pairs: ClassVar[bool] = False

    def __init__(
        self,
        *,
        scale: float | None = None,
        scales: Sequence[float] | None = None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(terms)
        if scale is not None and scales is not None:
            raise ValueError(
                "choose loss.scale, one for all, or loss.scales, a range that the student is told"
            )
        if scale is not None and not scale >= 0:
            raise ValueError(f"loss.scale must not be negative, got {scale}")
        if scales is not None and not (len(scales) == 2 and 0 <= scales[0] < scales[1]):
            raise ValueError(
                f"loss.scales takes the least and the largest scale, such as [1, 4], got {scales}"
            )
        self.scale, self.scales = scale, None if scales is None else (float(scales[0]), float(scales[1]))

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers that the student is told."""
        return () if self.scales is None else ("guidance",)

    @property
    def told_scale(self) -> float | None:
        """The scale that students are drawn with where they are told one: the middle of the range."""
        return None if self.scales is None else 0.5 * sum(self.scales)

    @abstractmethod
    def drawing(self, path: Path) -> Drawing:
        """How its students are drawn with."""

    def student_model(self, model: Node, chosen: Node | None = None) -> dict[str, Any]:
        """The config node of the student's network; the same as the teacher's, unless a method makes another one.

        Args:
            model: of the teacher.
            chosen: of `model=`, or None.

        Raises:
            ValueError: the method has no students of this kind.
        """
        if chosen is not None:
            raise ValueError("model: the model of init_from decides it; loss=kd alone takes another one")
        return dict(model)

    def take_over(self, student: nn.Module, teacher: nn.Module) -> None:
        """Gives a student's network of another shape what it can take of the teacher's weights."""
        raise NotImplementedError(
            f"loss={self.name} has students of another shape and does not say how they begin"
        )

    def begins(self, step: int) -> bool:
        """Whether the optimizer starts anew with this step; never, but for methods with rounds."""
        return False

    def place(self, step: int, total: int) -> tuple[int, int]:
        """The step and the total that the schedule of the learning rate is asked for."""
        return step, total

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Raises ValueError without a teacher, or for a student that is not told what it has to be."""
        super().bind(student, roles)
        if self.taught and roles.teacher is None:
            raise ValueError(
                f"loss={self.name} imitates a teacher: choose stage=distill and init_from=<teacher>"
            )
        missing = set(self.reads) - set(self.student.reads)
        if missing:
            raise ValueError(f"loss={self.name}: the student has no input for {', '.join(sorted(missing))}")
        self.__dict__["_teacher"], self.__dict__["_rule"] = roles.teacher, roles.guidance

    @property
    def teacher(self) -> Denoiser:
        """The bound teacher."""
        return cast(Denoiser, self.__dict__["_teacher"])

    @property
    def path(self) -> Path:
        """The noise process of student and teacher."""
        return cast(Path, self.student.path)

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        rng = rng.to(batch.x0.device)
        if player in self.terms.players:
            return self.terms.turn(player, batch, rng, kept)
        if player != STUDENT:
            return self.turn(player, batch, rng, kept)
        eps = batch.eps if self.from_pairs else rng.normal("noise", *batch.x0.shape[1:])
        if eps is None:
            raise ValueError(
                f"loss={self.name} learns from the noise of a teacher's images: choose data=pairs"
            )
        return self.losses(batch, eps, self.draw_scales(rng), rng)

    def turn(self, player: str, batch: Batch, rng: RowRng, kept: Mapping[str, Tensor]) -> Losses:
        """The losses of a network of the method that learns beside the student, of one that has such."""
        raise NotImplementedError(f"loss={self.name} has a player {player} and does not say what it learns")

    @abstractmethod
    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        """The student's losses at given noise (B, C, H, W) and guidance scales (B,) or None."""

    def draw_scales(self, rng: RowRng) -> Tensor | None:
        """Evenly from the range of scales, (B,)."""
        if self.scales is None:
            return None
        low, high = self.scales
        return low + (high - low) * rng.uniform("guidance scale")

    def told(self, condition: Condition | None, scales: Tensor | None) -> Condition | None:
        """The condition as the student reads it."""
        return condition if scales is None or condition is None else condition.told(guidance=scales)

    @torch.no_grad()
    def guided(self, batch: Batch, x: Tensor, t: Tensor, scales: Tensor | None = None) -> Estimate:
        """The teacher's guided estimate at x (B, C, H, W) and times (B,)."""
        rule = self.rule(scales)
        return rule.bind(self.teacher, batch.condition, batch.null)(x, t)

    def rule(self, scales: Tensor | None) -> Guidance:
        """By which the teacher is guided."""
        if scales is not None:
            return RowScales(scales)
        if self.scale is not None:
            return CFG(self.scale)
        return self.__dict__["_rule"] or NoGuidance()

    def answer(self, x: Tensor, t: Tensor, condition: Condition | None, rng: RowRng) -> Estimate:
        """The student's estimate, with the hidden states that terms read; no image token is left out."""
        estimate: Estimate = self.student(x, t, condition, self.terms.taps(rng.step))
        return estimate

    def with_terms(self, loss: Tensor, given: TermInput) -> Losses:
        """The main loss (B,) and the terms beside it."""
        return self.terms.added_to(self.name, loss.float(), given)


def moved(estimate: Estimate, r: Tensor) -> Tensor:
    """One deterministic step from the estimate's state to times r (B,), eq. (1); (B, C, H, W)."""
    path = estimate.path
    return like_rows(path.alpha(r), estimate.out) * estimate.x0 + like_rows(
        path.sigma(r), estimate.out
    ) * _eps(estimate, r)


def _eps(estimate: Estimate, r: Tensor) -> Tensor:
    """eps^, and 0 for rows whose step ends without noise, where it does not count and may not be determined."""
    noisy = like_rows(r > 0, estimate.out)
    return torch.where(noisy, estimate.eps, 0.0)


def even_times(steps: int, shift: float, start: float = 1.0) -> tuple[float, ...]:
    """The times of a few evaluations: start i / steps for i = steps .. 1, shifted."""
    if steps < 1:
        raise ValueError(f"loss.steps must be at least 1, got {steps}")
    if not (shift > 0 and 0 < start <= 1):
        raise ValueError(f"loss.shift must be positive and loss.start in (0, 1], got {shift} and {start}")
    return tuple(shift_time(start * i / steps, shift) for i in range(steps, 0, -1))


class Follower(nn.Module):
    """A copy of the student that learns nothing itself and lies in the checkpoints: a target, an earlier student.

    Weights of the student that do not learn, those around an adapter, are shared and not copied.

    Attributes:
        updates: how often it has followed.
    """

    updates: Tensor

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        shared = {id(p): p for p in student.parameters() if not p.requires_grad}
        self.network = copy.deepcopy(student, dict(shared)).eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Follower:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, count: int, decay: float) -> None:
        """theta <- decay theta + (1 - decay) theta_student, once for each new `count`; parameters only."""
        if count <= int(self.updates):
            return
        for own, new in zip(self.network.parameters(), student.parameters(), strict=True):
            if own is not new:
                own.lerp_(new, 1.0 - decay)
        self.updates.fill_(count)

    def __call__(self, *args: Any, **kwargs: Any) -> Estimate:
        """The copy's estimate."""
        with torch.no_grad():
            estimate: Estimate = self.network(*args, **kwargs)
        return estimate
