"""Additive terms: what a technique adds to the loss of the same estimate, listed in the config group `terms`.

    loss = main term + sum_k w_k(step) term_k

A term reads what the main objective has computed anyway: the estimate, the hidden states it tapped, and features
of the clean pictures that were encoded beforehand. It never runs the student again, unless it says so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import Estimate
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.features.base import FeatureEncoder

SHAPES = ("constant", "linear", "cosine")
Averaged = Callable[[], Mapping[str, Tensor]]
"""Gives the averaged (EMA) weights of the student by name; empty before the first update."""


@dataclass(frozen=True)
class View:
    """What a term sees of one micro-batch.

    Attributes:
        batch: clean latents and conditions, dropout already applied.
        eps, t: the noise (B, C, H, W) and the times (B,) that made estimate.x_t.
        estimate: the student's, with the hidden states in `taps`.
        rng: one row per sample.
        features: of the clean pictures by the term's own encoder, (B, n, d), or None.
        kept: where the student routed tokens, which of them stayed, (B, K); else None.
        grid: rows and columns of all image tokens, where the student routed some; else None.
    """

    batch: Batch
    eps: Tensor
    t: Tensor
    estimate: Estimate
    rng: RowRng
    features: Tensor | None = None
    kept: Tensor | None = None
    grid: tuple[int, int] | None = None

    def kept_in(self, hidden: Tensor) -> Tensor | None:
        """Which tokens hidden states (B, n, D) belong to, (B, n); None for all in their order."""
        few = self.kept is not None and hidden.shape[1] == self.kept.shape[1]
        return self.kept if few else None


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

    Attributes:
        taps: hidden states of the student that it reads.
        make_encoder: makes the encoder of clean pictures whose features it wants, or None; they are computed
            once and cached.
    """

    taps: tuple[str, ...] = ()
    make_encoder: Callable[[], FeatureEncoder] | None = None

    def __init__(self, weight: TermWeight) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def bind(self, student: Denoiser, averaged: Averaged | None = None) -> None:
        """Looks at the student, chooses taps and makes what learns; refuses a student that it does not fit."""

    def __call__(self, view: View) -> Tensor:
        term: Tensor = super().__call__(view)
        return term

    @abstractmethod
    def forward(self, view: View) -> Tensor:
        """The unweighted term of every sample, (B,) float32."""


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
