"""What an objective is, and the weighted squared error that the pre-training objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Path
from t2ilab.core.prediction import Eps, Estimate, Prediction, Score
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.types import Batch
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.scale import check_scale
from t2ilab.objectives.terms.base import Averaged, Term, View


@dataclass(frozen=True)
class Losses:
    """The terms of an objective, one value per sample.

    Attributes:
        terms: {name: (B,)} float32, the main one first; the stage weighs them, takes the mean and logs.
        t: the times they belong to, (B,), or None.
        weights: of the terms that do not count once.
        notes: {name: (n,)}, detached: what is worth logging and no part of the loss.
        kept: of methods with several players: what later turns with the same rows may use again, detached.
    """

    terms: dict[str, Tensor]
    t: Tensor | None = None
    weights: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The weighted sum of all terms, (B,)."""
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum(0)


class Objective(nn.Module, ABC):
    """One method of training. Refuses what does not fit in its constructor or in `bind`, never later."""

    def bind(self, student: Denoiser, averaged: Averaged | None = None) -> None:
        """Tells the objective which network it trains; it does not become its submodule.

        Args:
            averaged: gives the EMA weights of the student, for what learns from them.
        """
        self.__dict__["_student"] = student

    @property
    def student(self) -> Denoiser:
        """The bound student."""
        if "_student" not in self.__dict__:
            raise RuntimeError("bind(student) has to come before the first loss")
        student: Denoiser = self.__dict__["_student"]
        return student

    @abstractmethod
    def forward(self, batch: Batch, player: str, rng: RowRng) -> Losses:
        """Losses of one (micro-)batch for the player whose turn it is; `rng` has one row per sample."""


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
        super().__init__()
        if not max_weight > 0:
            raise ValueError(f"loss.max_weight must be positive, got {max_weight}")
        self.timestep, self.weighting, self.max_weight = timestep, weighting, max_weight
        self.terms = nn.ModuleDict(terms)

    def bind(self, student: Denoiser, averaged: Averaged | None = None) -> None:
        super().bind(student, averaged)
        for term in self.further.values():
            term.bind(student, averaged)

    @property
    def further(self) -> dict[str, Term]:
        """The further terms."""
        return {name: cast(Term, term) for name, term in self.terms.items()}

    def forward(self, batch: Batch, player: str, rng: RowRng) -> Losses:
        self.timestep.begin(rng.step)
        t, eps = self.draw(batch, rng)
        weights = {name: term.weight(rng.step) for name, term in self.further.items()}
        active = {name: term for name, term in self.further.items() if weights[name] > 0}
        routes = self.student.routes(rng, batch.x0)
        taps = [tap for term in active.values() for tap in term.taps]
        estimate = self.estimate(batch, eps, t, taps, routes)
        view = View(batch, eps, t, estimate, rng, kept=routes.get("kept"))
        if view.kept is not None:
            view = replace(view, grid=self.student.grid(batch.x0))
        counted = main = self.error(estimate, batch.x0, eps)
        if self.weighting is not None:
            counted, main = self.weighting.settle(main, t, self.student.path)
        self.timestep.observe(counted.detach(), t)
        main = self.timestep.weigh(main, t)
        for name, idle in self.further.items():
            if name not in active:  # DDP waits for a gradient of every parameter
                main = main + 0.0 * sum(p.sum() for p in idle.parameters())
        further = {
            name: term(replace(view, features=batch.extras.get(name))) for name, term in active.items()
        }
        return Losses({self.name: main} | further, t, weights)

    def draw(self, batch: Batch, rng: RowRng) -> tuple[Tensor, Tensor]:
        """Times (B,) from the purpose "time" and noise like x0 from the purpose "noise"."""
        if len(rng) != len(batch.x0):
            raise ValueError(f"rng has {len(rng)} rows for a batch of {len(batch.x0)}")
        rng = rng.to(batch.x0.device)
        return self.timestep(rng), rng.normal("noise", *batch.x0.shape[1:])

    def estimate(
        self,
        batch: Batch,
        eps: Tensor,
        t: Tensor,
        taps: Sequence[str] = (),
        routes: Mapping[str, Tensor] | None = None,
    ) -> Estimate:
        """What the student says at x_t = alpha x0 + sigma eps; `routes` as in `Denoiser.routes`, None for none."""
        x_t = self.student.path.mix(batch.x0, eps, t)
        return self.student(x_t, t, batch.condition, tuple(taps), **(routes or {}))

    def loss_at(self, batch: Batch, eps: Tensor, t: Tensor) -> Tensor:
        """The main term of every sample at given noise (B, C, H, W) and times (B,), (B,) float32."""
        return self.error(self.estimate(batch, eps, t), batch.x0, eps)

    @abstractmethod
    def error(self, estimate: Estimate, x0: Tensor, eps: Tensor) -> Tensor:
        """The main term: the error of an estimate of x0 and eps (B, C, H, W), (B,) float32.

        Take the mean over a picture by `estimate.mean`: a network with masked tokens says nothing about theirs.
        """

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

    It is computed from the error of the network output, which is free of singularities, with the weight
    w (det_space / det)^2 of `prediction.py`, eq. (3), at most max_weight. Where both are the same it is w. The output
    of a score network is taken for one of eps, -sigma score.

    Args:
        estimate: of x_t = alpha x0 + sigma eps.
        x0, eps: (B, C, H, W).
        space: the prediction whose error is meant; a weighting that is stated on another one replaces it.
    Returns:
        (B,) float32 or float64.
    """
    path, t, own = estimate.path, estimate.t, estimate.prediction
    error = estimate.mean(estimate.output_error(x0, eps).square())
    own = Eps() if isinstance(own, Score) else own
    weight = torch.ones_like(t) if weighting is None else weighting(t, path)
    space = space if weighting is None or weighting.space is None else weighting.space
    if type(space) is type(own) and vars(space) == vars(own):
        return weight * error
    ratio = space.system(path, t).det / own.system(path, t).det
    return (weight * ratio**2).clamp(max=max_weight) * error
