"""A conditioner without weights or files: every word has a fixed random vector. For tests and first tries."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, check_prompts

ROWS = 4096  # vectors; words are spread over them by a hash


class RandomText(Conditioner):
    """Words become rows of a fixed random table plus a random vector of their place, unit variance together.

    A text is its words and an end mark, so the empty prompt has one token; what is over `length` is cut.
    pooled is the sum of the word vectors over the square root of their number.

    Args:
        dim: width of the tokens.
        pooled_dim: None, or `dim`.
        length: tokens of every condition.
        seed: of the table.
    """

    words: Tensor
    places: Tensor

    def __init__(self, *, dim: int, pooled_dim: int | None, length: int, seed: int = 0) -> None:
        super().__init__()
        if pooled_dim not in (None, dim):
            raise ValueError(
                f"conditioner.pooled_dim must be null or conditioner.dim={dim}, got {pooled_dim}"
            )
        if length < 1 or dim < 1:
            raise ValueError(
                f"conditioner.dim and conditioner.length must be positive, got {dim} and {length}"
            )
        self.dim, self.pooled_dim, self.length = dim, pooled_dim, length
        generator = torch.Generator().manual_seed(seed)
        words = torch.randn(ROWS, dim, generator=generator) * 0.75**0.5
        places = torch.randn(length, dim, generator=generator) * 0.25**0.5
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.further: dict[str, int] = {}
        self.rows: nn.Parameter | None = None

    def forward(self, prompts: Sequence[str]) -> Condition:
        rows = [self._ids(prompt) for prompt in check_prompts(prompts)]
        ids = torch.tensor([row + [0] * (self.length - len(row)) for row in rows], device=self.words.device)
        counts = torch.tensor([len(row) for row in rows], device=self.words.device)
        mask = torch.arange(self.length, device=self.words.device) < counts[:, None]
        table = self.words if self.rows is None else torch.cat([self.words, self.rows])
        words = table[ids] * mask[..., None]
        pooled = None if self.pooled_dim is None else words.sum(1) / counts[:, None].sqrt()
        return Condition((words + self.places) * mask[..., None], mask, pooled)

    def cut(self, prompts: Sequence[str]) -> int:
        return sum(len(_words(prompt)) > self.length - 1 for prompt in prompts)

    def _ids(self, prompt: str) -> list[int]:
        words = _words(prompt)[: self.length - 1]
        return [self.further.get(word, 1 + zlib.crc32(word.encode()) % (ROWS - 1)) for word in words] + [0]

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        self.further = {token: ROWS + number for number, token in enumerate(tokens)}
        self.rows = nn.Parameter(torch.zeros(len(tokens), self.dim))
        return {"": self.rows}

    def vectors(self, word: str) -> dict[str, Tensor]:
        return {"": self.words[self._ids(word)[:-1]]}


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", prompt.lower())
