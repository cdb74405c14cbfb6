"""What an objective gives for a micro-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """The terms of an objective, one value per sample.

    Attributes:
        terms: {name: (B,)} float32, the main one first; the stage weighs them, takes the mean and logs.
        t: the times they belong to, (B,), or None.
        weights: of the terms that do not count once.
        notes: {name: (n,)}, detached: what is worth logging and no part of the loss. The names are those of every
            micro-batch of the turn, in one order: processes add up their sums by place. n may be 0.
        kept: of methods with several players: what later turns with the same rows may use again, detached.
    """

    terms: Mapping[str, Tensor]
    t: Tensor | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def weighted(self) -> dict[str, Tensor]:
        """The terms as they count, (B,) each."""
        return {name: self.weights.get(name, 1.0) * term for name, term in self.terms.items()}

    @property
    def total(self) -> Tensor:
        """The weighted sum of all terms, (B,)."""
        return torch.stack(list(self.weighted.values())).sum(0)
