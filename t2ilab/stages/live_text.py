"""Text encoders that learn with the network: their captions are read anew in every step, with gradient.

The text encoder becomes a part of the student, `denoiser.text`: so its average, its checkpoints and its resuming are
those of the network. What trains of it are the vectors of a learned word, or all weights that a condition depends on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.types import Condition
from t2ilab.data.source import Source
from t2ilab.stages.assembly import Assembly
from t2ilab.text.base import Conditioner
from t2ilab.text.learned import LearnedWords


@dataclass(frozen=True)
class LiveTexts:
    """Texts of training rows, one for each source, by the text encoder as it is at the moment.

    Attributes:
        conditioner: the text encoder.
        captions: the text of all rows of a source, by source.
        ends: number of the first row behind each source.
    """

    conditioner: Conditioner
    captions: tuple[str, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, conditioner: Conditioner, sources: Sequence[Source]) -> LiveTexts:
        """Of sources whose rows all have one caption."""
        captions = tuple(source.captions(0)[0] for source in sources)
        return cls(conditioner, captions, tuple(accumulate(map(len, sources))))

    def __call__(self, index: Tensor) -> Condition:
        """The condition of rows (B,), with gradient; each text is read once."""
        owners = [bisect_right(self.ends, row) for row in index.tolist()]
        there = sorted(set(owners))
        found = self._still()([self.captions[owner] for owner in there])
        return found[torch.tensor([there.index(owner) for owner in owners], device=found.tokens.device)]

    def null(self) -> Condition:
        """The empty condition, one row, with gradient."""
        return self._still().null(1)

    def _still(self) -> Conditioner:
        """The text encoder without dropout: a step is a function of its seed."""
        return self.conditioner.eval()


def make_live(
    parts: Assembly, *, word_lr: float, text_lr: float | None
) -> list[tuple[list[nn.Parameter], float]]:
    """Makes the text encoder a part of the student, with what trains of it.

    Args:
        word_lr: rate of the vectors of learned words; 0 leaves them.
        text_lr: rate of all its other weights; None leaves them.

    Returns:
        parameters and their rate; nothing if nothing of it trains.
    """
    conditioner: Any = parts.generate.conditioner
    rates = []
    if isinstance(conditioner, LearnedWords) and word_lr > 0:
        rows = list(conditioner.rows.values())
        conditioner.trained = True
        rates.append((rows, word_lr))
    if text_lr is not None:
        weights = concerned(conditioner)
        for module in conditioner.modules():
            if isinstance(module, Conditioner) and not isinstance(module, LearnedWords):
                module.trained = True
        rates.append((weights, text_lr))
    for parameters, _ in rates:
        for parameter in parameters:
            parameter.requires_grad_()
    if rates:
        parts.denoiser.add_module("text", conditioner.to(parts.device))
    return rates


def concerned(conditioner: Conditioner) -> list[nn.Parameter]:
    """The weights that a condition depends on, so none of an image tower; nor the vectors of learned words.

    Raises:
        ValueError: there are none.
    """
    words = (
        {id(rows) for rows in conditioner.rows.values()} if isinstance(conditioner, LearnedWords) else set()
    )
    weights = [p for p in conditioner.parameters() if p.is_floating_point() and id(p) not in words]
    before = [p.requires_grad for p in weights]
    with torch.enable_grad():
        for p in weights:
            p.data = p.data.float()
            p.requires_grad_()
        found = conditioner(["a text"])
        total = found.tokens.float().sum() + (0 if found.pooled is None else found.pooled.float().sum())
        passes = bool(weights) and total.requires_grad
        gradients = (
            torch.autograd.grad(total, weights, allow_unused=True) if passes else [None] * len(weights)
        )
    for p, old in zip(weights, before, strict=True):
        p.requires_grad_(old)
    trainable = [p for p, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    if not trainable:
        name = type(conditioner).__name__
        raise ValueError(f"stage.text_lr: {name} has no weights that could train; set stage.text_lr=null")
    return trainable
