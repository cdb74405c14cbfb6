"""Learning from pairs of images of which one is preferred.

Both images of a pair get the same noise eps and the same time t, so that what the errors of any two images have in
common cancels. With the mean squared errors of the student and of the reference, a frozen copy of its start,

    e(x) = mean_CHW (prediction(x_t, t, c) - target(x, eps, t))^2
    change_w = e_w - e_w^ref,    change_l = e_l - e_l^ref,    margin = change_l - change_w                      (1)

the margin grows as the winner's error falls and the loser's rises. Every loss here is a function of these four
errors. The error may be stated in any prediction; at equal outputs they differ by a factor of time alone,

    e_eps = (1 - t)^2 e_velocity,    e_x0 = t^2 e_velocity        on the linear path,                           (2)

so that a constant beta of one is a weighting of the other.
Source: Wallace et al. 2023 (Diffusion-DPO), arXiv 2311.12908; Liu et al. 2025 (Flow-DPO), arXiv 2501.13918.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import X0, Eps, Prediction, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler, fixed
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Objective, weighted_error
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import STUDENT

Space = Literal["own", "eps", "velocity", "x0"]
SPACES: dict[str, Prediction] = {"eps": Eps(), "velocity": Velocity(), "x0": X0()}


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of pairs, (B, 2) each, winners first.

    Attributes:
        student: with gradient.
        reference: None where nothing is compared with one.
    """

    student: Tensor
    reference: Tensor | None = None

    @property
    def changes(self) -> Tensor:
        """change_w and change_l of eq. (1), (B, 2)."""
        return self.student if self.reference is None else self.student - self.reference

    @property
    def margin(self) -> Tensor:
        """Of eq. (1), (B,)."""
        return self.changes[:, 1] - self.changes[:, 0]


class Preference(Objective):
    """What the methods share: the errors of both networks on both images, and what is logged of them.

    Args:
        timestep: distribution of the times.
        space: whose error is meant: the network's `own` output, or `eps`, `velocity` or `x0`.
        beta: how strongly the student may leave the reference, per mean squared error of a latent of `numbers`
            numbers. An error of a mean shrinks with the number of latent numbers that differ in nothing: for latents
            of D numbers beta D / numbers is used, which leaves beta per summed error as it is.
        numbers: 16384 for Stable Diffusion's 4 x 64 x 64; None takes beta as it is for every size.
    """

    compares: ClassVar[bool] = True
    name: ClassVar[str]

    def __init__(self, timestep: TimestepSampler, *, space: Space, beta: float, numbers: int | None) -> None:
        super().__init__()
        if space not in get_args(Space):
            raise ValueError(f"loss.space must be one of {', '.join(get_args(Space))}, got {space}")
        if not beta > 0:
            raise ValueError(f"loss.beta must be positive, got {beta}")
        if numbers is not None and numbers < 1:
            raise ValueError(f"loss.numbers must be positive or null, got {numbers}")
        self.timestep, self.beta, self.numbers = fixed(timestep), beta, numbers
        self.space = space

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Raises ValueError without a reference, if the method compares with one."""
        super().bind(student, roles)
        if self.compares and roles.reference is None:
            raise ValueError(
                f"loss={self.name} compares the student with a frozen copy of its start, which only stage=preference "
                "brings: choose another loss, such as loss=flow_matching"
            )
        self.__dict__["reference"] = roles.reference if self.compares else None

    def beta_of(self, x0: Tensor) -> float:
        """beta per mean squared error of latents (B, 2, C, H, W)."""
        return self.beta if self.numbers is None else self.beta * x0[0, 0].numel() / self.numbers

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """The loss of every pair; x0 (B, 2, C, H, W), winners first, and B conditions."""
        if player != STUDENT:
            return self.terms.turn(player, batch, rng, kept)
        t, eps = self.draw(batch, rng)
        errors = self.errors_at(batch, eps, t)
        return Losses({self.name: self.loss(errors, self.beta_of(batch.x0))}, t, notes=notes_of(errors))

    def draw(self, batch: Batch, rng: RowRng) -> tuple[Tensor, Tensor]:
        """Times (B,) and noise (B, C, H, W), of a pair for both its images."""
        if batch.x0.ndim != 5 or batch.x0.shape[1] != 2:
            raise ValueError(f"a preference wants latents (B, 2, C, H, W), got {tuple(batch.x0.shape)}")
        rng = rng.to(batch.x0.device)
        return self.timestep(rng), rng.normal("noise", *batch.x0.shape[2:])

    def errors_at(self, batch: Batch, eps: Tensor, t: Tensor) -> Errors:
        """The errors of all pairs at given noise (B, C, H, W) and times (B,)."""
        own = self.error(self.student, batch, eps, t)
        reference = self.__dict__["reference"]
        if reference is None:
            return Errors(own)
        with torch.no_grad():
            return Errors(own, self.error(cast(Denoiser, reference), batch, eps, t))

    def error(self, denoiser: Denoiser, batch: Batch, eps: Tensor, t: Tensor) -> Tensor:
        """e of both images of every pair, (B, 2) float32; no image token is left out."""
        x0, both = batch.x0.transpose(0, 1).flatten(0, 1), torch.cat([t, t])
        noise = torch.cat([eps, eps])
        condition = None if batch.condition is None else batch.condition.cat(batch.condition)
        estimate = denoiser(self.student.path.mix(x0, noise, both), both, condition)
        space = SPACES.get(self.space, self.student.prediction)
        error = weighted_error(estimate, x0, noise, space=space)
        return error.float().view(2, -1).T

    @abstractmethod
    def loss(self, errors: Errors, beta: float) -> Tensor:
        """The loss of every pair, (B,) float32."""


def notes_of(errors: Errors) -> dict[str, Tensor]:
    """What tells more than the loss: margin and accuracy, errors of winners and losers and how they have changed."""
    found = {"winner_error": errors.student[:, 0], "loser_error": errors.student[:, 1]}
    found["margin"] = errors.margin
    found["accuracy"] = (errors.margin > 0).float() + 0.5 * (errors.margin == 0).float()  # a tie counts half
    if errors.reference is not None:
        found |= {"winner_change": errors.changes[:, 0], "loser_change": errors.changes[:, 1]}
    return {name: value.detach() for name, value in found.items()}
