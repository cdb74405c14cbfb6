"""What an objective is: one method of training; and the squared error that the pre-training objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Path
from t2ilab.core.prediction import Eps, Estimate, Prediction, Score
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.types import Batch
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.scale import check_scale
from t2ilab.objectives.terms.base import Term, TermInput, Terms
from t2ilab.objectives.turns import STUDENT, Balance, Player

NOTHING: Mapping[str, Tensor] = {}


class Objective(nn.Module, ABC):
    """One method of training. Refuses what does not fit in its constructor or in `bind`, never later.

    Networks that learn beside the student are `Player`s, attributes of the method or of one of its terms. Parameters
    that belong to no player (a learned variance, a projector) learn with the student.

    Args:
        terms: further terms, by name.

    Attributes:
        trains: what its student is.
    """

    trains: ClassVar[Literal["denoiser", "autoencoder", "encoder", "reward"]] = "denoiser"

    def __init__(self, terms: Mapping[str, Term] | None = None) -> None:
        super().__init__()
        self.terms = Terms(terms)

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Tells the objective which network it trains, which does not become its submodule, and what is beside it."""
        self.__dict__["_student"] = student
        self.terms.bind(cast(Denoiser, student), roles)  # only a denoiser's methods take terms

    @property
    def student(self) -> Any:
        """The bound student."""
        if "_student" not in self.__dict__:
            raise RuntimeError("bind(student) has to come before the first loss")
        return self.__dict__["_student"]

    @property
    def players(self) -> dict[str, Player]:
        """The players beside the student, by name: the attribute's, or that of the term they belong to."""
        own = {name: child for name, child in self.named_children() if isinstance(child, Player)}
        return own | self.terms.players

    def beside_student(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that belong to no player; they learn with the student."""
        foreign = {id(p) for player in self.players.values() for p in player.parameters()}
        return [(name, p) for name, p in self.named_parameters() if id(p) not in foreign]

    def turns(self, step: int) -> tuple[str, ...]:
        """Who learns from global batch `step`, in this order; a player may come several times, the student once.

        All of them unless a method says otherwise. A batch without a student's turn is no step of the student: it
        moves no schedule, EMA or checkpoint.
        """
        idle = [name for name in self.terms.players if not self.terms.count_at(name, step)]
        return (STUDENT, *(name for name in self.players if name not in idle))

    def balances(self, player: str) -> Mapping[str, Balance]:
        """Terms of this player's loss that are weighed by their gradients; all others are added as they are."""
        return {}

    @abstractmethod
    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """The player's losses of one (micro-)batch.

        Args:
            rng: one row per sample.
            kept: what earlier turns with these rows have kept (`Losses.kept`).
        """


class Regression(Objective):
    """An objective that draws (t, eps) and regresses on a target that x0 and eps determine.

    Args:
        timestep: distribution of the times.
        weighting: weights; None for 1. One that is stated on another error replaces the space of the loss.
        max_weight: the largest weight that an error may get by being restated in another space; 400 is what
            JiT gives the x0 error, min(1 / t^2, 1 / 0.05^2), arXiv 2511.13720.
        terms: further terms on the same estimate, by name.

    Attributes:
        name: of the main term.
    """

    name: str

    def __init__(
        self,
        timestep: TimestepSampler,
        weighting: Weighting | None = None,
        *,
        max_weight: float = 400.0,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if not max_weight > 0:
            raise ValueError(f"loss.max_weight must be positive, got {max_weight}")
        self.timestep, self.weighting, self.max_weight = timestep, weighting, max_weight
        self.terms = Terms(terms)  # behind what else learns: optimizers count parameters in this order

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        if player != STUDENT:
            return self.terms.turn(player, batch, rng, kept)
        t, eps = self.draw(batch, rng)
        x_t = self.student.path.mix(batch.x0, eps, t)
        estimate = self.student(x_t, t, batch.condition, self.terms.taps(rng.step), rng=rng)
        loss = self.weighed(self.error(estimate, batch.x0, eps), t)
        return self.terms.added_to(self.name, loss, TermInput(batch, eps, t, estimate, rng))

    def draw(self, batch: Batch, rng: RowRng) -> tuple[Tensor, Tensor]:
        """Times (B,) from the purpose "time" and noise like x0 from the purpose "noise"."""
        if len(rng) != len(batch.x0):
            raise ValueError(f"rng has {len(rng)} rows for a batch of {len(batch.x0)}")
        self.timestep.begin(rng.step)
        rng = rng.to(batch.x0.device)
        return self.timestep(rng), rng.normal("noise", *batch.x0.shape[1:])

    @abstractmethod
    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        """The main term: the error of an estimate of x0 and eps (B, C, H, W), (B,) float32.

        Take the mean over an image by `estimate.mean`: a network with masked tokens says nothing about theirs.
        """

    def weighed(self, error: Tensor, t: Tensor) -> Tensor:
        """The loss of errors (B,): a weighting that learns adds its own part, times that learn see and weigh it."""
        counted = loss = error
        if self.weighting is not None:
            counted, loss = self.weighting.settle(error, t, self.student.path)
        self.timestep.observe(counted.detach(), t)
        return self.timestep.weigh(loss, t)

    def check_scale(self, space: Prediction, path: Path) -> None:
        """Refuses a path on which targets of this space are too large at some time that is drawn."""
        low, high = self.timestep.low, self.timestep.high
        check_scale(space, path, low=low, high=high, who=f"loss={type(self).__name__}")


def weighted_error(
    estimate: Estimate,
    x0: Tensor,
    eps: Tensor,
    *,
    space: Prediction,
    weighting: Weighting | None = None,
    max_weight: float = 400.0,
) -> Tensor:
    """w(t) mean_CHW (space(estimate) - space(x0, eps))^2, one value per sample; the mean is `Estimate.mean`.

    It is computed from the error of the network output, free of singularities, with the weight of `restated`.
    The output of a score network is taken for one of eps, -sigma score.

    Args:
        estimate: of x_t = alpha x0 + sigma eps.
        x0, eps: (B, C, H, W).
        space, weighting, max_weight: as in `restated`.
    Returns:
        (B,) float32 or float64.
    """
    w = restated(estimate, space, weighting, max_weight)
    return w * estimate.mean(estimate.output_error(x0, eps).square())


def restated(estimate: Estimate, space: Prediction, weighting: Weighting | None, max_weight: float) -> Tensor:
    """The weight with which the squared error of the network's own output counts as one of another prediction.

    w (det_space / det)^2 of `prediction.py`, eq. (3), at most max_weight; where both are the same it is w.

    Args:
        space: the prediction whose error is meant; a weighting that is stated on another one replaces it.
    Returns:
        (B,) float32 or float64.
    """
    path, t, own = estimate.path, estimate.t, estimate.prediction
    own = Eps() if isinstance(own, Score) else own
    weight = torch.ones_like(t) if weighting is None else weighting(t, path)
    space = space if weighting is None or weighting.space is None else weighting.space
    if type(space) is type(own) and vars(space) == vars(own):
        return weight
    ratio = space.system(path, t).det / own.system(path, t).det
    return (weight * ratio**2).clamp(max=max_weight)
