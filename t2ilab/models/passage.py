"""How a transformer leads its tokens through the blocks where a rule of `routing.py` leaves some of them out.

Shapes: B batch, N image tokens, K kept ones, L tokens behind them (text), D width, C H W latent, c numbers per place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.models.layers import patch_grid, unpatchify
from t2ilab.models.routing import Routing, pick, put


class Passage:
    """The way of the tokens of one forward pass through the blocks.

    Args:
        routing: the rule, or None.
        count: N.
        mask: which keys count, (B, N + L) bool, or None.
        rotation: turns of queries and keys, (N [+ L], c), or None.
        kept, bypass: as in `Routing.rejoin`; they act in training only.

    Attributes:
        count, mask, rotation: those that hold at the present place; a rotation may be (B, K [+ L], c).
    """

    def __init__(
        self,
        routing: Routing | None,
        *,
        count: int,
        mask: Tensor | None = None,
        rotation: Tensor | None = None,
        kept: Tensor | None = None,
        bypass: Tensor | None = None,
    ) -> None:
        if kept is not None and routing is None:
            raise ValueError("this model leaves no tokens out: choose a rule, routing@model.routing=tread")
        self.routing = routing
        self.before_it: Tensor | None = None
        self.kept, self.bypass = (kept, bypass) if routing is not None and routing.training else (None, None)
        self.all = count, mask, rotation
        self.count, self.mask, self.rotation = self.all

    def enter(self, number: int, tokens: Tensor) -> Tensor:
        """The tokens that block `number` shall see, of tokens (B, N + L, D) that stand before it."""
        if self.routing is None or number != self.routing.first + 1:
            return tokens
        count, mask, rotation = self.all
        self.before_it = before = tokens[:, :count]
        if self.kept is None:
            return tokens
        self.count = self.kept.shape[1]
        self.mask = None if mask is None else mask[:, count - self.count :]  # all image tokens count
        self.rotation = None if rotation is None else self._turns(rotation, self.kept)
        return torch.cat([pick(before, self.kept), tokens[:, count:]], 1)

    def leave(self, number: int, tokens: Tensor) -> Tensor:
        """The tokens behind block `number`, all of them again behind the last one of the stretch."""
        rule, before = self.routing, self.before_it
        if rule is None or before is None or number != rule.last or rule.hides:
            return tokens
        image = rule.rejoin(before, tokens[:, : self.count], self.kept, self.bypass)
        rest = tokens[:, self.count :]
        self.count, self.mask, self.rotation = self.all
        return torch.cat([image, rest], 1)

    def whole(self, out: Tensor) -> Tensor:
        """(B, N, d) of an output (B, N or K, d), zero for tokens that did not come back."""
        count = self.all[0]
        if self.kept is None or self.count == count:
            return out
        return put(out.new_zeros(out.shape[0], count, out.shape[2]), self.kept, out)

    def _turns(self, rotation: Tensor, kept: Tensor) -> Tensor:
        rest = rotation[self.all[0] :].expand(len(kept), -1, -1)
        return torch.cat([rotation[kept], rest], 1)


class Routable:
    """What a transformer says of its image tokens and of those that it leaves out.

    Attributes:
        routing: its rule, or None.
        patch_size: edge of a patch.
    """

    routing: Routing | None
    patch_size: int
    training: bool

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of the image tokens of latents (B, C, H, W)."""
        return patch_grid(x, self.patch_size)

    def routed(self, tap: str) -> bool:
        """Whether the hidden states behind this block are those of the kept tokens only."""
        number = int(tap.removeprefix("block"))
        return self.routing is not None and self.routing.first < number <= self.routing.last

    def visible(self, x: Tensor, kept: Tensor) -> Tensor | None:
        """Where the output for latents (B, C, H, W) says something, (B, 1, H, W) bool; None for everywhere."""
        if self.routing is None or not self.routing.hides or not self.training:
            return None
        rows, columns = self.grid(x)
        seen = kept.new_zeros(len(kept), rows * columns, 1, dtype=torch.bool).scatter(
            1, kept[..., None], True
        )
        return unpatchify(seen.expand(-1, -1, self.patch_size**2), self.patch_size, *x.shape[-2:])
