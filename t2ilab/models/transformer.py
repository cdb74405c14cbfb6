"""The shell of the diffusion transformers: what all of them do between the latents and their output.

A family says three things: `embed` makes tokens of latents, time and text, `block` passes them through one of its
blocks, `head` makes an output of them. The loop over the blocks, hidden states, token routing and joins of mirrored
blocks stand here.

Shapes: B batch, C H W latent, N image tokens, K kept ones, S sequence, L text tokens, D width, p patch edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.types import Condition
from t2ilab.models.inputs import BlockTaps, tap_numbers
from t2ilab.models.layers import full_precision, unpatchify
from t2ilab.models.passage import Passage, Routable


@dataclass
class Embedded:
    """What a family has made of its inputs before the first block.

    Attributes:
        tokens: (B, S, D), the image's first.
        count: N, how many of them are the image's.
        vectors: what modulates each block, in their order.
        final: what modulates the head.
        text: text that stands beside the sequence, (B, L, D), or None.
        text_mask: which of it counts, (B, L) bool, or None.
        mask: which tokens of the sequence (and text that attention appends to it) are read, (B, S [+ L]), or None.
        rotation: turns of queries and keys, a row per token of the same, or None.
    """

    tokens: Tensor
    count: int
    vectors: Sequence[Any]
    final: Sequence[Tensor]
    text: Tensor | None = None
    text_mask: Tensor | None = None
    mask: Tensor | None = None
    rotation: Tensor | None = None


class Transformer(BlockTaps, Routable, nn.Module, ABC):
    """A diffusion transformer: latents (B, C, H, W) to an output like them.

    Attributes:
        blocks: the blocks, `depth` of them.
        skips: whether block i is joined to block depth - 1 - i, which then has a layer `skip`.
    """

    blocks: nn.ModuleList
    skips: bool = False

    @abstractmethod
    def embed(self, x: Tensor, t: Tensor, cond: Condition | None) -> Embedded:
        """Everything before the first block."""

    @abstractmethod
    def block(
        self, number: int, tokens: Tensor, text: Tensor | None, given: Embedded, way: Passage
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens and text behind block `number`, counted from 1.

        Args:
            tokens, text: those before it, where some image tokens may be left out.
            given: what `embed` has made.
            way: mask and rotation of the tokens that are there.
        """

    @abstractmethod
    def head(self, x: Tensor, tokens: Tensor, given: Embedded, way: Passage) -> Tensor:
        """The output for latents x of the tokens behind the last block; called outside of autocast."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        taps: Sequence[str] = (),
        *,
        kept: Tensor | None = None,
        bypass: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The raw network output and the hidden image tokens that were asked for.

        Args:
            x: noisy latents, (B, C, H, W).
            t: scaled times, (B,).
            cond: the condition, B rows.
            taps: names "block1" .. "block<depth>": the image tokens after that block, (B, N, D), or where
                only the kept ones pass it (B, K, D).
            kept, bypass: what the rule in `routing` has drawn, in training; see `Routing.draw`.
        """
        wanted = tap_numbers(taps, self.depth)
        given = self.embed(x, t, cond)
        masks = {"mask": given.mask, "rotation": given.rotation}
        way = Passage(self.routing, count=given.count, **masks, kept=kept, bypass=bypass)
        tokens, text = given.tokens, given.text
        hidden: dict[str, Tensor] = {}
        saved: list[Tensor] = []
        for number in range(1, self.depth + 1):
            tokens = way.enter(number, tokens)
            if self.skips and number > (self.depth + 1) // 2:
                join = self.blocks[number - 1].get_submodule("skip")
                tokens = tokens + join(torch.cat([tokens, saved.pop()], -1))
            tokens, text = self.block(number, tokens, text, given, way)
            if self.skips and number <= self.depth // 2:
                saved.append(tokens)
            if number in wanted:
                hidden[wanted[number]] = tokens[:, : way.count]
            tokens = way.leave(number, tokens)
        with full_precision(x):
            return self.head(x, tokens, given, way), hidden

    def latents(self, x: Tensor, patches: Tensor, way: Passage) -> Tensor:
        """Patches (B, N or K, C p p) put together like x, zero for tokens that did not come back."""
        return unpatchify(way.whole(patches), self.patch_size, *x.shape[-2:])
