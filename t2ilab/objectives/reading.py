"""Reading captions back: a text encoder whose vectors say what the caption asks for.

Contrast alone leaves a small text tower with a bag of words: any colour and any shape tell two images apart, so
which belongs to which is learned late. Here the vectors have to answer questions about the caption. About each
thing in the order of the text, and about the image as a whole, a `text.reader.Reader` answers. The pooled vector
has no order of words; it answers the questions about things for the canonical form of the caption, by linear
softmaxes. With Q questions in all,

    L_i = -1/Q sum ln p(answer) over the questions of the reader and those of the pooled vector.

The idea is ours; it stands in for the language that a large text encoder has learned elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.models.layers import plain_norm
from t2ilab.text.reader import Told


@dataclass(frozen=True)
class Answers:
    """The right answers to the questions about B captions, all class numbers.

    Attributes:
        things: attributes of the things in the order of the text, (B, S, A).
        canonical: the same of the canonical form, (B, S, A).
        whole: about the image as a whole, (B, W).
    """

    things: Tensor
    canonical: Tensor
    whole: Tensor


class Reading(nn.Module):
    """The loss above.

    Args:
        pooled_dim: width of the pooled vector.
        slots: S, things a caption can name.
        choices: number of classes of each attribute of a thing.
        whole_choices: number of classes of each question about the whole.
    """

    def __init__(
        self, *, pooled_dim: int, slots: int, choices: Sequence[int], whole_choices: Sequence[int]
    ) -> None:
        super().__init__()
        self.slots, self.choices, self.whole_choices = slots, tuple(choices), tuple(whole_choices)
        self.pooled_head = nn.Linear(pooled_dim, slots * sum(choices))

    def forward(self, told: Told, pooled: Tensor, answers: Answers) -> Tensor:
        """The loss of each caption, (B,); `told` are the reader's logits."""
        canonical = self.pooled_head(plain_norm(pooled)).unflatten(1, (self.slots, -1))
        wrong = [
            self._of_things(told.things, answers.things),
            self._of_things(canonical, answers.canonical),
            _surprise(told.whole, self.whole_choices, answers.whole),
        ]
        return torch.cat(wrong, 1).mean(1)

    def _of_things(self, logits: Tensor, answers: Tensor) -> Tensor:
        wrong = _surprise(logits.flatten(0, 1), self.choices, answers.flatten(0, 1))
        return wrong.unflatten(0, (-1, self.slots)).flatten(1)


def _surprise(logits: Tensor, choices: Sequence[int], answers: Tensor) -> Tensor:
    """-ln p(answer) of every question: logits (N, sum of choices), answers (N, questions)."""
    parts = zip(logits.float().split(list(choices), 1), answers.unbind(1), strict=True)
    return torch.stack([F.cross_entropy(part, answer, reduction="none") for part, answer in parts], 1)
