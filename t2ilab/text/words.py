"""Further words of a text encoder: rows behind its table of word vectors, which alone may change.

A word of one's own is written as one token or several of its own, `zwx__0 zwx__1`, that no text holds by chance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Extended(nn.Embedding):
    """A table of word vectors (V, D) with rows (n, D) for the ids from `first` on.

    The table keeps its name, so that weights of an encoder without further words fit.

    Args:
        table: as it was.
        first: id of the first further token; none of the table's own is used from there on.
        count: n.
    """

    def __init__(self, table: nn.Embedding, first: int, count: int) -> None:
        super().__init__(1, table.embedding_dim, device="meta")
        self.num_embeddings, self.first, self.weight = table.num_embeddings, first, table.weight
        self.rows = nn.Parameter(torch.zeros(count, table.embedding_dim))

    def forward(self, input: Tensor) -> Tensor:
        further = input >= self.first
        known = super().forward(input.masked_fill(further, 0))
        own = self.rows[(input - self.first).clamp_min(0)]
        return torch.where(further[..., None], own.to(known.dtype), known)


def tokens_of(words: Mapping[str, int]) -> dict[str, list[str]]:
    """The tokens of each word of so many vectors."""
    return {word: [f"{word.lower()}__{number}" for number in range(count)] for word, count in words.items()}


def spelt(text: str, words: Mapping[str, Sequence[str]]) -> str:
    """A text with its own words written as their tokens, in capitals or not."""
    if not words:
        return text
    pattern = "|".join(re.escape(word) for word in words)
    small = {word.lower(): " ".join(tokens) for word, tokens in words.items()}
    return re.sub(rf"\b(?:{pattern})\b", lambda found: small[found[0].lower()], text, flags=re.IGNORECASE)


def check_word(word: str) -> None:
    """Raises ValueError if a word cannot be told from the rest of a text."""
    if not re.fullmatch(r"\w+", word):
        raise ValueError(f"stage.token={word} is no single word")


def start_of(pieces: Tensor, count: int) -> Tensor:
    """The first vectors of a new word, (count, D): those of the pieces (n, D) of a known one, or their mean."""
    return pieces.clone() if len(pieces) == count else pieces.mean(0).expand(count, -1).clone()


def without_rows(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an encoder without its further words."""
    return {name: value for name, value in state.items() if not name.endswith(".rows")}
