"""Continuous-time consistency (sCM): the consistency of two times that are infinitely near, by a derivative.

On the circle x_a = cos a x0 + sin a z with angles a in [0, pi / 2], where every path lies after division by
sqrt(alpha^2 + sigma^2), the network says F = cos a eps^ - sin a x0^, the velocity dx/da, and

    f(x_a, a) = cos a x_a - sin a F(x_a, a) = x0^                                                           (1)

is the consistency function. With the velocity u = F_T of the guided teacher (or cos a z - sin a x0 without one), the
derivative dF of F along (cos a sin a u, cos a sin a) in (x, a), and r rising from 0 to 1 over the warm-up,

    g = -cos^2 a (F - u) - r (cos a sin a x_a + dF),    g <- g / (|g| + 0.1)                                (2)
    L = |F - sg F - sg g|^2 / D = |g|^2 / D, whose gradient moves F along g                                 (3)

Before it is normalised g is cos a df/da at r = 1: it vanishes for a consistency function.
Source: Lu and Song 2024, arXiv 2410.11081, eq. 6 to 8, with data of variance 1; weight 1 without a learned variance
as in rCM, arXiv 2510.08431.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.jvp import jvp
from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.objectives.distill.base import Distillation, Drawing, even_times
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput


class SCM(Distillation):
    """Eq. (3).

    Args:
        teacher: distillation; false: training from data alone.
        mean, std: tan a is log-normal with these, up to the most noise that the path has.
        warmup: steps over which r rises; 0 for r = 1 from the start.
        steps: evaluations that the export draws with, with new noise between them.
        shift: of their times; None for 1.
        scale: standard guidance scale of the teacher; None for the rule of its export.
        terms: further terms, by name.
    """

    name = "scm"

    def __init__(
        self,
        *,
        teacher: bool,
        mean: float,
        std: float,
        warmup: int,
        steps: int,
        shift: float | None,
        scale: float | None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(scale=scale, terms=terms)
        if not (std > 0 and warmup >= 0):
            raise ValueError(
                f"loss.std must be positive and loss.warmup not negative, got {std} and {warmup}"
            )
        self.taught, self.mean, self.std, self.warmup = teacher, mean, std, warmup
        self.steps, self.shift = steps, 1.0 if shift is None else shift

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        end = torch.ones((), dtype=torch.float64)
        last = float(torch.atan2(self.path.sigma(end), self.path.alpha(end)))
        self.last = (1 - 1e-6) * last  # angle of the path's end, with room for rounding

    def drawing(self, path: Path) -> Drawing:
        return Drawing("renoise", even_times(self.steps, self.shift))

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        angle = torch.atan((self.mean + self.std * rng.normal("time")).exp()).clamp(max=self.last)
        cos, sin = like_rows(angle.cos(), eps), like_rows(angle.sin(), eps)
        x = cos * batch.x0 + sin * eps
        u = cos * eps - sin * batch.x0
        if self.taught:
            u = velocity(self.guided(batch, *on_path(self.path, x, angle)), angle)
        tangent = self.tangent(x, angle, u, batch.condition, rng.step)
        x_t, t = on_path(self.path, x, angle)
        estimate = self.answer(x_t, t, batch.condition, rng)
        found = velocity(estimate, angle)
        loss = (found - found.detach() - tangent).square().flatten(1).mean(1)
        return self.with_terms(loss, TermInput(batch, eps, t, estimate, rng))

    def tangent(self, x: Tensor, angle: Tensor, u: Tensor, condition: Condition | None, step: int) -> Tensor:
        """g of eq. (2), normalised over each image, (B, C, H, W)."""
        g = self.change(x, angle, u, condition, min(1.0, step / self.warmup) if self.warmup else 1.0)
        norm = g.flatten(1).norm(dim=1)
        return g / like_rows(norm + 0.1, g)

    def change(self, x: Tensor, angle: Tensor, u: Tensor, condition: Condition | None, r: float) -> Tensor:
        """g of eq. (2) as it is."""
        student: Denoiser = self.student
        cos, sin = like_rows(angle.cos(), x), like_rows(angle.sin(), x)

        def f(state: Tensor, at: Tensor) -> Tensor:
            x_t, t = on_path(self.path, state, at)
            return velocity(student(x_t, t, condition), at)

        found, change = jvp(f, (x, angle), (cos * sin * u, (cos * sin).flatten().to(angle)))
        return -(cos**2) * (found - u) - r * (cos * sin * x + change)


def on_path(path: Path, x: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The state and the time on the path of a state on the circle: x_t = sqrt(alpha^2 + sigma^2) x."""
    t = path.time_of_log_snr(2.0 * (angle.cos().log() - angle.sin().log()))
    return like_rows(torch.hypot(path.alpha(t), path.sigma(t)), x) * x, t


def velocity(estimate: Estimate, angle: Tensor) -> Tensor:
    """F = cos a eps^ - sin a x0^ of an estimate, (B, C, H, W)."""
    cos, sin = like_rows(angle.cos(), estimate.out), like_rows(angle.sin(), estimate.out)
    return cos * estimate.eps - sin * estimate.x0
