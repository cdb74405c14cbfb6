"""The block of the diffusion transformer; its formula stands in `dit.py`.

Shapes: B batch, S sequence, L text tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from t2ilab.models.blocks import MLP, Attention, CrossAttention
from t2ilab.models.layers import modulate, plain_norm


class Block(nn.Module):
    """One adaLN-Zero block; `context` says how text reaches it (None: it does not)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        activation: str,
        qk_norm: bool,
        context: str | None,
        skip: bool,
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.mlp = MLP(width, int(mlp_ratio * width), activation=activation)
        self.text_kv = nn.Linear(width, 2 * width) if context == "kv" else None
        self.cross = CrossAttention(width, heads) if context == "cross" else None
        self.skip = nn.Linear(2 * width, width) if skip else None

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        mask: Tensor | None,
        text: Tensor | None = None,
        rotation: Tensor | None = None,
    ) -> Tensor:
        """x (B, S, D); modulation (B, 1, 6 D); text (B, L, D) unless it already stands in x."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, -1)
        kv = None if self.text_kv is None else self.text_kv(text)
        self_mask = None if self.cross is not None else mask
        x = x + gate_1 * self.attention(modulate(plain_norm(x), shift_1, scale_1), self_mask, kv, rotation)
        if self.cross is not None:
            x = x + self.cross(plain_norm(x), text, mask)
        return x + gate_2 * self.mlp(modulate(plain_norm(x), shift_2, scale_2))
