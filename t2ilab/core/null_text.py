"""A learned condition for "no text", which trains as a part of the network that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.types import Condition

NAME = "null_embed"  # the part of a backbone that holds it; optimizers know "embed" for what is no matrix


class NullText(nn.Module):
    """Vectors that stand in place of the rows of a condition that are blank.

    They start as normal numbers over the root of their width, as PixArt's, and are saved, averaged and exported with
    the network.

    Args:
        length, dim: of the tokens; all of them count.
        pooled_dim: width of the pooled vector, or None.
    """

    def __init__(self, length: int, dim: int, pooled_dim: int | None) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, length, dim) / dim**0.5)
        self.pooled: nn.Parameter | None = None
        if pooled_dim is not None:
            self.pooled = nn.Parameter(torch.randn(1, pooled_dim) / pooled_dim**0.5)

    def forward(self, cond: Condition) -> Condition:
        """The condition with its blank rows filled; where there are none, it depends on the vectors all the same."""
        blank = cond.blank
        if blank is None:
            blank = torch.zeros(len(cond), dtype=torch.bool, device=cond.tokens.device)
        tokens = self._put(blank[:, None, None], self.tokens[:, : cond.tokens.shape[1]], cond.tokens)
        pooled = cond.pooled
        if pooled is not None and self.pooled is not None:
            pooled = self._put(blank[:, None], self.pooled, pooled)
        return replace(cond, tokens=tokens, pooled=pooled, blank=None)

    @staticmethod
    def _put(blank: Tensor, learned: Tensor, given: Tensor) -> Tensor:
        return torch.where(blank, learned.to(given.dtype), given)


def add_null_text(backbone: nn.Module, conditioner: Mapping[str, Any]) -> None:
    """Gives a backbone the learned vectors, if the config node of its conditioner asks for them (null: learned)."""
    if conditioner.get("null") == "learned":
        sizes = (conditioner["length"], conditioner["dim"], conditioner["pooled_dim"])
        backbone.add_module(NAME, NullText(*sizes))


def filled(backbone: nn.Module, cond: Condition | None) -> Condition | None:
    """The condition as the backbone shall read it: blank rows hold its learned vectors.

    Raises:
        ValueError: rows are blank, and the backbone has no vectors for them.
    """
    learned = getattr(backbone, NAME, None)
    if cond is None:
        return None
    if learned is None:
        if cond.blank is not None:
            raise ValueError(
                "conditioner.null=learned needs a model that has learned it; choose conditioner.null=empty"
            )
        return cond
    made: Condition = learned(cond)
    return made
