"""The one place that chooses the attention kernel.

Shapes: B batch, H heads, G heads of keys and values, N queries, M keys, K width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v over the keys that `mask` allows.

    On the CPU the two products are written out: under bf16 autocast that is two to three times faster than
    the fused kernel at the lengths met there. Elsewhere torch's scaled_dot_product_attention is used.

    Args:
        q: (B, H, N, K).
        k, v: (B, G, M, K); each serves the next H / G heads of queries.
        mask: (B, M) bool, true where a key counts; every row needs one true entry (else the result is NaN).
    Returns:
        (B, H, N, K).
    """
    if k.shape[1] < q.shape[1]:  # as a mask has no say about queries, those of one group can stand in a row
        grouped = attend(q.unflatten(1, (k.shape[1], -1)).flatten(2, 3), k, v, mask)
        return grouped.unflatten(2, (-1, q.shape[2])).flatten(1, 2)
    return plain(q, k, v, mask) if q.device.type == "cpu" else fused(q, k, v, mask)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by two matrix products."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, N, M)
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=logits.dtype).masked_fill(~mask, float("-inf"))
        logits = logits + bias[:, None, None, :]
    return logits.softmax(-1).to(v.dtype) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by torch's fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H K) -> (B, H, N, K)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, K) -> (B, N, H K)."""
    return x.transpose(1, 2).flatten(2)


def all_keys(mask: Tensor, before: int) -> Tensor:
    """`mask` (B, M) with `before` keys that always count put in front of it, (B, before + M)."""
    return torch.cat([mask.new_ones(mask.shape[0], before), mask], 1)
