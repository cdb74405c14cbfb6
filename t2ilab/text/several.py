"""Several text encoders that read the same prompt, side by side, as in SDXL, SD3 and Flux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, Null, check_choice, check_sizes


class Several(Conditioner):
    """The token and pooled vectors of several encoders as one condition.

    `tokens` is a list of rows of names: the encoders of a row stand side by side on the channels, which wants texts
    of one length, and the rows one behind the other on the sequence, narrower ones filled up with zeros. The pooled
    vectors of `pooled` stand side by side. So SDXL is tokens=[[clip_l, clip_g]] with pooled=[clip_g], SD3
    tokens=[[clip_l, clip_g], [t5]] with pooled=[clip_l, clip_g], and Flux tokens=[[t5]] with pooled=[clip_l].

    Args:
        encoders: conditioners by name.
        tokens, pooled: see above; every encoder has to be named.
        dim, pooled_dim, length: what other parts of the config rely on; must be those that come out.
        null: the null condition, `empty`, `zeros` or `learned`, of all encoders together; theirs have to be `empty`.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, Conditioner],
        tokens: Sequence[Sequence[str]],
        pooled: Sequence[str],
        dim: int,
        pooled_dim: int | None,
        length: int,
        null: Null = "empty",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.rows, self.pools = [list(row) for row in tokens], list(pooled)
        named = {name for row in self.rows for name in row} | set(self.pools)
        if not self.rows or not all(self.rows) or named != set(encoders):
            raise ValueError(
                f"conditioner.tokens={self.rows} and conditioner.pooled={self.pools} have to name all of "
                f"{', '.join(encoders)}, and nothing else"
            )
        self._check(encoders)
        lengths = [encoders[row[0]].length for row in self.rows]
        found = {
            "dim": max(sum(encoders[name].dim for name in row) for row in self.rows),
            "pooled_dim": sum(encoders[name].pooled_dim or 0 for name in self.pools) or None,
            "length": sum(lengths),
        }
        check_sizes("its encoders", {"dim": dim, "pooled_dim": pooled_dim, "length": length}, found)
        self.dim, self.pooled_dim, self.length = dim, pooled_dim, length
        self.null_text = check_choice("null", null, Null)

    def _check(self, encoders: Mapping[str, Conditioner]) -> None:
        for row in self.rows:
            if len({encoders[name].length for name in row}) > 1:
                lengths = {name: encoders[name].length for name in row}
                raise ValueError(f"conditioner.tokens: encoders of one row need one length, got {lengths}")
        for name, encoder in encoders.items():
            if name in self.pools and encoder.pooled_dim is None:
                raise ValueError(f"conditioner.pooled names {name}, which has no pooled vector")
            if encoder.null_text != "empty":
                raise ValueError(
                    f"conditioner.encoders.{name}.null={encoder.null_text} would not be read: set conditioner.null"
                )

    def forward(self, prompts: Sequence[str]) -> Condition:
        read = {name: encoder(prompts) for name, encoder in self.encoders.items()}
        tokens = [self._filled([read[name].tokens for name in row]) for row in self.rows]
        masks = [torch.stack([read[name].mask for name in row]).any(0) for row in self.rows]
        pooled = [read[name].pooled for name in self.pools]
        return Condition(torch.cat(tokens, 1), torch.cat(masks, 1), torch.cat(pooled, -1) if pooled else None)

    def cut(self, prompts: Sequence[str]) -> int:
        return max(cast(Conditioner, encoder).cut(prompts) for encoder in self.encoders.values())

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        return {
            name: rows
            for name, encoder in self.encoders.items()
            for rows in cast(Conditioner, encoder).add_words(tokens).values()
        }

    def vectors(self, word: str) -> dict[str, Tensor]:
        return {
            name: rows
            for name, encoder in self.encoders.items()
            for rows in cast(Conditioner, encoder).vectors(word).values()
        }

    def _filled(self, parts: Sequence[Tensor]) -> Tensor:
        row = torch.cat(list(parts), -1)
        return F.pad(row, (0, self.dim - row.shape[-1]))
