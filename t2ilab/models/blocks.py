"""Attention and feed-forward layers that the transformers share.

Shapes: B batch, S sequence, L text tokens, D width, H heads, G heads of keys and values, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.attention import attend, merge_heads, split_heads
from t2ilab.models.layers import RMSNorm
from t2ilab.models.rope import rotate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class Attention(nn.Module):
    """Multi-head attention from x to x, or to x and further tokens.

    Args:
        width, heads: D and H.
        kv_heads: G, a divisor of H; each head of keys and values serves H / G heads of queries (Ainslie et al.
            2023, arXiv 2305.13245). None: G = H.
        qk_norm: RMS normalisation of queries and keys, per head.
        bias: of the linear layers.
        output: whether the mixed values pass a last linear layer here.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        output: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        head_dim = width // heads
        self.sizes = [width, self.kv_heads * head_dim, self.kv_heads * head_dim]
        self.qkv = nn.Linear(width, sum(self.sizes), bias=bias)
        self.out = nn.Linear(width, width, bias=bias) if output else None
        self.q_norm = RMSNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim) if qk_norm else nn.Identity()

    def project(
        self, x: Tensor, *, kv: Tensor | None = None, rotation: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, S, K), keys and values (B, G, S [+ L], K) of x, normalised, then rotated.

        Args:
            x: (B, S, D).
            kv: further keys and values, (B, L, 2 G K), or None.
            rotation: see `rope.rotate`, a row per key, or None.
        """
        q, k, v = self.qkv(x).split(self.sizes, -1)
        if kv is not None:
            k, v = (torch.cat([own, more], 1) for own, more in zip((k, v), kv.chunk(2, -1), strict=True))
        q, k = self.q_norm(split_heads(q, self.heads)), self.k_norm(split_heads(k, self.kv_heads))
        if rotation is not None:
            q, k = rotate(q, rotation[..., : q.shape[2], :]), rotate(k, rotation)
        return q, k, split_heads(v, self.kv_heads)

    def forward(
        self, x: Tensor, mask: Tensor | None, kv: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """(B, S, D); the arguments are those of `project`, and mask (B, S [+ L]) bool or None."""
        mixed = merge_heads(attend(*self.project(x, kv=kv, rotation=rotation), mask))
        return mixed if self.out is None else self.out(mixed)


class CrossAttention(nn.Module):
    """Multi-head attention from x to the text; the output layer shall start at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """x (B, S, D), text (B, L, D), mask (B, L) bool -> (B, S, D)."""
        k, v = self.kv(text).chunk(2, -1)
        q, k, v = (split_heads(part, self.heads) for part in (self.q(x), k, v))
        return self.out(merge_heads(attend(q, k, v, mask)))


class MLP(nn.Module):
    """Linear, activation, Linear.

    The default GELU is the exact one; the published networks use `gelu_tanh`, which differs by less than 5e-4.

    Args:
        width, hidden: sizes of input and hidden layer.
        out: size of the output; None: `width`.
        activation: gelu, gelu_tanh or silu.
    """

    def __init__(self, width: int, hidden: int, *, out: int | None = None, activation: str = "gelu") -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width if out is None else out)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.hidden(x)))


class SwiGLU(nn.Module):
    """W_out (SiLU(W_gate x) * W_up x) without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * hidden, bias=False)  # gate and up
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.hidden(x).chunk(2, -1)
        return self.out(F.silu(gate) * up)
