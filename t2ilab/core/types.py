"""The values that pass between the parts: conditions, batches, trajectories.

Sizes: B batch, L text tokens, D text width, P pooled width, C H W latent channels, height, width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told about the image it shall make.

    Attributes:
        tokens: one vector per text token, (B, L, D).
        mask: true where a token counts, (B, L) bool. Every row keeps at least one true entry.
        pooled: one vector per text, (B, P), or None.
        blank: rows that hold no text and wait for the network's learned vectors, (B,) bool; None for no such row.
        numbers: what else the network is told, (B,) by name, see `core/numbers.py`; {} for nothing.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None = None
    blank: Tensor | None = None
    numbers: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.mask.shape != self.tokens.shape[:2]:
            shapes = f"{tuple(self.tokens.shape)} and {tuple(self.mask.shape)}"
            raise ValueError(f"tokens must be (B, L, D) with a mask (B, L), got {shapes}")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Condition:
        return self._each(lambda value: value[rows])

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Moves to a device; a dtype applies to the vectors and leaves the mask boolean."""
        moved = self._each(lambda value: value.to(*args, **kwargs))
        return replace(
            moved, mask=moved.mask.bool(), blank=None if moved.blank is None else moved.blank.bool()
        )

    def told(self, **numbers: Tensor | float) -> Condition:
        """The same with further numbers, (B,) or one for all rows."""
        rows = self.mask.shape[:1]
        each = {
            name: value if isinstance(value, Tensor) else torch.full(rows, value, device=self.mask.device)
            for name, value in numbers.items()
        }
        return replace(self, numbers={**self.numbers, **each})

    def expand(self, rows: int) -> Condition:
        """A single condition repeated `rows` times, without copying."""
        return self._each(lambda value: value.expand(rows, *value.shape[1:]))

    def where(self, keep: Tensor, null: Condition) -> Condition:
        """Own rows where `keep` (B,) is true, rows of `null` (1 or B of them) elsewhere."""
        own, other = _same_length(self, null)

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(keep.view(-1, *[1] * (mine.ndim - 1)), mine, theirs.to(mine.dtype))

        pooled = None if own.pooled is None or other.pooled is None else pick(own.pooled, other.pooled)
        blank = self._blanks(other, lambda mine, theirs: torch.where(keep, mine, theirs))
        made = Condition(pick(own.tokens, other.tokens), pick(own.mask, other.mask), pooled, blank)
        return made.told(**self.numbers)  # they say nothing of the text

    def cat(self, other: Condition) -> Condition:
        """The rows of `self` followed by the rows of `other`."""
        mine, theirs = _same_length(self, other)
        pooled = (
            None if mine.pooled is None or theirs.pooled is None else torch.cat([mine.pooled, theirs.pooled])
        )
        blank = self._blanks(other, lambda first, second: torch.cat([first, second]))
        tokens, mask = torch.cat([mine.tokens, theirs.tokens]), torch.cat([mine.mask, theirs.mask])
        numbers = {
            name: torch.cat([value, other.numbers.get(name, value[: len(other)])])
            for name, value in self.numbers.items()
        }
        return Condition(tokens, mask, pooled, blank, numbers)

    def padded(self, length: int) -> Condition:
        """With masked zero tokens appended until there are `length` tokens."""
        missing = length - self.tokens.shape[1]
        if missing < 0:
            raise ValueError(f"cannot pad {self.tokens.shape[1]} tokens to {length}")
        tokens = torch.nn.functional.pad(self.tokens, (0, 0, 0, missing))
        mask = torch.nn.functional.pad(self.mask, (0, missing))
        return replace(self, tokens=tokens, mask=mask)

    def trimmed(self) -> Condition:
        """Without the positions behind the last one that counts in any row: less work, the same result."""
        length = int(self.mask.any(0).nonzero().max()) + 1
        return replace(self, tokens=self.tokens[:, :length], mask=self.mask[:, :length])

    def _each(self, function: Any) -> Condition:
        pooled = None if self.pooled is None else function(self.pooled)
        blank = None if self.blank is None else function(self.blank)
        numbers = {name: function(value) for name, value in self.numbers.items()}
        return Condition(function(self.tokens), function(self.mask), pooled, blank, numbers)

    def _blanks(self, other: Condition, join: Any) -> Tensor | None:
        """Which rows are blank where rows of two conditions are joined; None if neither has any."""
        if self.blank is None and other.blank is None:
            return None
        none = [torch.zeros_like(part.mask[:, 0]) for part in (self, other)]
        parts = (self.blank, other.blank)
        return join(*(zero if blank is None else blank for blank, zero in zip(parts, none, strict=True)))


def _same_length(first: Condition, second: Condition) -> tuple[Condition, Condition]:
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    return first.padded(length), second.padded(length)


@dataclass(frozen=True)
class Batch:
    """One (micro-)batch as an objective sees it.

    Attributes:
        x0: clean data: latents of unit variance, (B, C, H, W), or images in [-1, 1] for methods that look at pixels;
            (B, n, ...) where a row brings several.
        condition: the texts, B rows (condition dropout already applied), or None.
        null: the empty condition, one row, or None.
        extras: what else is known of the clean images, such as features that a term wants, (B, ...) by name.
        eps: the noise that x0 was drawn from, like x0, of pairs that a teacher drew; else None.
    """

    x0: Tensor
    condition: Condition | None = None
    null: Condition | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    eps: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """What a sampler returns.

    Attributes:
        x: the last state, (B, C, H, W).
        states: all states, first to last, if they were asked for.
        log_probs: log-density of each stochastic step, (steps, B), if it was asked for.
        nfe: network evaluations per sample (a guided evaluation counts twice).
    """

    x: Tensor
    states: list[Tensor] = field(default_factory=list)
    log_probs: Tensor | None = None
    nfe: int = 0
