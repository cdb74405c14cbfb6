"""Additive terms: what a technique adds to the loss of the same estimate, listed in the config group `terms`.

    loss = main term + sum_k w_k(step) term_k

A term reads what the main objective has computed anyway: the estimate, the hidden states it tapped, and features
of the clean images that were encoded beforehand. It never runs the student again, unless it says so. One that plays
against the student brings a player of its own, which gets a turn with every batch while the term counts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.features.base import FeatureEncoder
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import Player

SHAPES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class TermInput:
    """What a term sees of one micro-batch.

    Attributes:
        batch: clean latents and conditions, dropout already applied.
        eps, t: the noise (B, C, H, W) and the times (B,) that made estimate.x_t.
        estimate: the student's, with the hidden states in `taps`.
        rng: one row per sample.
        features: of the clean images by the term's own encoder, (B, n, d), or None.
        target: what the method wants x0^ to be, (B, C, H, W); None for the clean latents.
    """

    batch: Batch
    eps: Tensor
    t: Tensor
    estimate: Estimate
    rng: RowRng
    features: Tensor | None = None
    target: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """What x0^ is compared with, (B, C, H, W)."""
        return self.batch.x0 if self.target is None else self.target


@dataclass(frozen=True)
class TermWeight:
    """w(step): `value` in the beginning, 0 from `stop` of the run on.

    With p = step / (stop total): constant w = value; linear w = value (1 - p); cosine
    w = value (1 + cos(pi p)) / 2, each for p < 1. A sharp stop ("constant") is what HASTE does to REPA.

    Attributes:
        value: not negative.
        total: optimizer steps of the run.
        stop: share of the run, in (0, 1]; 1 never stops.
        shape: `constant`, `linear` or `cosine`.
    Source: Wang et al. 2025 (HASTE), arXiv 2505.16792, for the early stop.
    """

    value: float
    total: int
    stop: float = 1.0
    shape: str = "constant"

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise ValueError(f"terms.*.weight.value must not be negative, got {self.value}")
        if not 0 < self.stop <= 1:
            raise ValueError(f"terms.*.weight.stop is a share of the run in (0, 1], got {self.stop}")
        if self.shape not in SHAPES:
            raise ValueError(f"terms.*.weight.shape must be one of {', '.join(SHAPES)}, got {self.shape}")

    def __call__(self, step: int) -> float:
        progress = step / (self.stop * self.total)
        if progress >= 1 and self.stop < 1:
            return 0.0
        if self.shape == "constant":
            return self.value
        progress = min(progress, 1.0)
        fallen = progress if self.shape == "linear" else (1.0 - math.cos(math.pi * progress)) / 2.0
        return self.value * (1.0 - fallen)


class Term(nn.Module, ABC):
    """One additive term. Its parameters (a projector, say) learn beside the student and are not exported.

    Args:
        weight: w(step).
        player: a network that learns against the student in turns of its own, or None.

    Attributes:
        taps: hidden states of the student that it reads.
        make_encoder: makes the encoder of clean images whose features it wants, or None; they are computed
            once and cached.
    """

    taps: tuple[str, ...] = ()
    make_encoder: Callable[[], FeatureEncoder] | None = None

    def __init__(self, weight: TermWeight, player: Player | None = None) -> None:
        super().__init__()
        self.weight, self.player = weight, player

    @abstractmethod
    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        """Looks at the student, chooses taps and makes what learns; refuses a student that it does not fit."""

    def __call__(self, given: TermInput) -> Tensor:
        term: Tensor = super().__call__(given)
        return term

    @abstractmethod
    def forward(self, given: TermInput) -> Tensor:
        """The unweighted term of every sample, (B,) float32."""

    def kept(self, given: TermInput) -> Mapping[str, Tensor]:
        """What the turn of the player needs of the student's turn with the same rows, detached."""
        return {}

    def turn(self, batch: Batch, rng: RowRng, kept: Mapping[str, Tensor]) -> Losses:
        """The losses of the player, after the student's turn has left what `kept` says."""
        raise NotImplementedError(f"{type(self).__name__} has a player and does not say what it learns")


class Terms(nn.ModuleDict):
    """The additive terms of a method, by name."""

    @property
    def each(self) -> dict[str, Term]:
        """The terms."""
        return {name: cast(Term, term) for name, term in self.items()}

    @property
    def players(self) -> dict[str, Player]:
        """The players of terms that have one, by the name of the term."""
        return {name: term.player for name, term in self.each.items() if term.player is not None}

    def bind(self, student: Denoiser, roles: Roles) -> None:
        """Binds every term."""
        for term in self.each.values():
            term.bind(student, roles)

    def count_at(self, name: str, step: int) -> bool:
        """Whether a term counts in this step."""
        return self.each[name].weight(step) > 0

    def taps(self, step: int) -> tuple[str, ...]:
        """Hidden states that the terms read in this step."""
        return tuple(
            tap for name, term in self.each.items() if self.count_at(name, step) for tap in term.taps
        )

    def added_to(self, name: str, main: Tensor, given: TermInput) -> Losses:
        """The main term, (B,), with those that count in this step beside it.

        The parameters of the others are counted zero times: DDP waits for a gradient of every parameter.
        """
        step = given.rng.step
        terms: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for key, term in self.each.items():
            if not self.count_at(key, step):
                main = main + 0.0 * sum(p.sum() for p in term.parameters())
                continue
            own = replace(given, features=given.batch.extras.get(key))
            terms[key] = term(own)
            kept |= {f"{key}/{what}": value for what, value in term.kept(own).items()}
        weights = {key: term.weight(step) for key, term in self.each.items()}
        return Losses({name: main} | terms, given.t, weights, kept=kept)

    def turn(self, player: str, batch: Batch, rng: RowRng, kept: Mapping[str, Tensor]) -> Losses:
        """The losses of a term's player."""
        own = {
            key.removeprefix(f"{player}/"): value
            for key, value in kept.items()
            if key.startswith(f"{player}/")
        }
        return self.each[player].turn(batch, rng, own)


def tapped(student: Denoiser, tap: str | None, default: str) -> tuple[str, int]:
    """A tap of the student, `default` for None, with its width.

    Raises:
        ValueError: the student does not have it.
    """
    name = default if tap is None else tap
    try:
        return name, student.tap_width(name)
    except ValueError as error:
        raise ValueError(f"terms.<name>.tap: {error}") from error
