"""Progressive distillation: in each round the student learns to make one step of two of the round before.

A round whose student has N steps draws i from 0 .. N - 1 and t = (i + 1) / N, m = t - 1 / (2 N), r = t - 1 / N (the
same, shifted). The teacher makes two deterministic steps t -> m -> r; with q = sigma_r / sigma_t the one step that
ends there too has

    x0~  = (x_r - q x_t) / (alpha_r - q alpha_t),    eps~ = (x_t - alpha_t x0~) / sigma_t                   (1)

and the network's output is regressed on what these two say. On the linear path the target is the mean of both
velocities; at r = 0 it is the teacher's last x0^. After a round the student is the next teacher, its optimizer starts
anew, and the guidance of the first teacher is not applied again: it is in the weights.
Source: Salimans and Ho 2022, arXiv 2202.00512, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.core.types import Batch
from t2ilab.objectives.base import weighted_error
from t2ilab.objectives.distill.base import Distillation, Drawing, Follower, even_times, moved
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput


class Progressive(Distillation):
    """Rounds of halving, which divide the run evenly: which one a step belongs to follows from its number.

    Args:
        first, last: steps of the student of the first and the last round; first / last is a power of 2.
        total: optimizer steps of the run.
        shift: of the times, that of the teacher's sampler; None for 1.
        start: the first time; below 1 for networks that say nothing about the data at 1.
        scale: standard guidance scale of the first teacher; None for the rule of its export.
        terms: further terms, by name.
    """

    name = "progressive"

    def __init__(
        self,
        *,
        first: int,
        last: int,
        total: int,
        shift: float | None,
        start: float,
        scale: float | None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(scale=scale, terms=terms)
        ratio = first // last if last > 0 else 0
        if ratio < 1 or ratio * last != first or ratio & (ratio - 1):
            raise ValueError(f"loss.first={first} must be loss.last={last} times a power of 2")
        self.counts = tuple(first >> k for k in range(ratio.bit_length()))
        if total < len(self.counts):
            raise ValueError(
                f"loss.first={first} and loss.last={last} are {len(self.counts)} rounds, more than the run has steps"
            )
        self.total, self.shift, self.start = total, 1.0 if shift is None else shift, start
        even_times(last, self.shift, start)  # refuses what is no time

    def drawing(self, path: Path) -> Drawing:
        return Drawing("ode", even_times(self.counts[-1], self.shift, self.start))

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        self.before = Follower(student)  # the student of the round before, from the second round on

    def round_at(self, step: int) -> int:
        """The round of a step."""
        return min(step * len(self.counts) // self.total, len(self.counts) - 1)

    def first_step(self, number: int) -> int:
        """The first step of a round."""
        return -(-number * self.total // len(self.counts))

    def begins(self, step: int) -> bool:
        """Whether a round begins with this step, the first one apart."""
        return step > 0 and self.round_at(step) != self.round_at(step - 1)

    def place(self, step: int, total: int) -> tuple[int, int]:
        """The step in its round, and the steps of the round."""
        number = self.round_at(step)
        first = self.first_step(number)
        return step - first, self.first_step(number + 1) - first

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        number = self.round_at(rng.step)
        self.before.follow(self.student, number, decay=0.0)
        times = self.times(rng, self.counts[number])
        t = times[0]
        x_t = self.path.mix(batch.x0, eps, t)
        x0, noise = self.target(batch, x_t, times, number)
        estimate = self.answer(x_t, t, batch.condition, rng)
        loss = weighted_error(estimate, x0, noise, space=self.student.prediction)
        losses = self.with_terms(loss, TermInput(batch, eps, t, estimate, rng, target=x0))
        return replace(losses, notes={"round": torch.full_like(t, number + 1.0)})

    def times(self, rng: RowRng, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """t > m > r of every row, (B,) float32, of a student with `count` steps."""
        place = (rng.uniform("time", dtype=torch.float64) * count).floor().clamp(max=count - 1)
        t, m, r = (self.start * (place + part) / count for part in (1.0, 0.5, 0.0))
        shifted = [shift_time(time, self.shift).float() for time in (t, m, r)]
        return shifted[0], shifted[1], shifted[2]

    def target(
        self, batch: Batch, x_t: Tensor, times: tuple[Tensor, Tensor, Tensor], number: int
    ) -> tuple[Tensor, Tensor]:
        """x0~ and eps~ of eq. (1) at times t > m > r, (B, C, H, W), of round `number`."""
        t, m, r = times

        def answer(x: Tensor, time: Tensor) -> Estimate:
            return self.guided(batch, x, time) if number == 0 else self.before(x, time, batch.condition)

        middle = moved(answer(x_t, t), m)
        return one_step(self.path, x_t, moved(answer(middle, m), r), t, r)


def one_step(path: Path, x_t: Tensor, x_r: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The x0~ and eps~ with which one deterministic step leads from x_t to x_r, eq. (1)."""
    alpha_t, sigma_t = like_rows(path.alpha(t), x_t), like_rows(path.sigma(t), x_t)
    q = like_rows(path.sigma(r), x_t) / sigma_t
    x0 = (x_r - q * x_t) / (like_rows(path.alpha(r), x_t) - q * alpha_t)
    return x0, (x_t - alpha_t * x0) / sigma_t
