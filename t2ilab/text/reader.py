"""The things a caption names, read from its token vectors.

S slots hold the things of a caption in their order. Slot s attends to the tokens once, with a learned query q_s,

    r_s = sum_l softmax_l(q_s . K h_l / sqrt(D)) V h_l,

and every attribute a of its thing is one linear softmax p_sa of r_s, with class 0 for "not said" or "no such
thing". What is said of the image as a whole are linear softmaxes of the pooled vector. Side by side the p_sa are a
vector for each thing, in which every attribute is equally loud. The idea is ours; training is
objectives/reading.py.

Shapes: B batch, L text tokens, D their width, E that of the pooled vector, S slots, Q and W the sums of all
choices about a thing and about the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Told:
    """Answers: logits or probabilities.

    Attributes:
        things: (B, S, Q).
        whole: (B, W).
    """

    things: Tensor
    whole: Tensor


class Reader(nn.Module):
    """The formula above.

    Args:
        dim: D.
        slots: S, things a caption can name.
        pooled_dim: E.
        choices: number of classes of each attribute; the first attribute is 0 where there is no thing.
        whole_choices: number of classes of each question about the whole.
    """

    def __init__(
        self, *, dim: int, pooled_dim: int, slots: int, choices: Sequence[int], whole_choices: Sequence[int]
    ) -> None:
        super().__init__()
        self.slots, self.choices, self.whole_choices = slots, tuple(choices), tuple(whole_choices)
        self.queries = nn.Parameter(torch.randn(slots, dim))
        self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.head = nn.Linear(dim, sum(choices))
        self.whole_head = nn.Linear(pooled_dim, sum(whole_choices))

    def forward(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Told:
        """Logits of all answers; tokens (B, L, D), mask (B, L) true where a token counts, pooled (B, E)."""
        tokens = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6)
        logits = self.queries @ self.key(tokens).mT / tokens.shape[-1] ** 0.5
        read = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ self.value(tokens)
        whole = self.whole_head(F.layer_norm(pooled.float(), pooled.shape[-1:], eps=1e-6))
        return Told(self.head(read), whole)

    def probabilities(self, told: Told) -> tuple[Told, Tensor]:
        """Probabilities of all answers, and whether there is such a thing, (B, S)."""
        things, whole = _softmax(told.things, self.choices), _softmax(told.whole, self.whole_choices)
        return Told(things, whole), things[..., 0] < 0.5


def _softmax(logits: Tensor, choices: Sequence[int]) -> Tensor:
    return torch.cat([part.softmax(-1) for part in logits.float().split(list(choices), -1)], -1)
