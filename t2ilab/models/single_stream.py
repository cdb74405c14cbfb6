"""A single-stream transformer in the form of Lumina-Image 2.0 (Qin et al. 2025, arXiv 2503.21758).

Text tokens, after a few blocks of their own, and image tokens stand in one sequence and share all weights. With four
vectors a(c) that start at zero, c = time(t) [+ pooled text], and RMS norms before and after each part, a block is

    x = x + tanh(gate_1) norm(Attention(norm(x) (1 + scale_1)))
    x = x + tanh(gate_2) norm(SwiGLU(norm(x) (1 + scale_2)))

Queries and keys are RMS-normalised and turned by rotary positions. Blocks that only text passes are not modulated.
We differ from Lumina in the positions: two axes, row and column, and all text at the origin, as in Flux, so the
order of text tokens is left to the text encoder (Lumina counts them on a third axis); norms have eps 1e-6, not 1e-5.
A DiT with context=joint shares weights as well, but has adaLN-Zero, an MLP, no norms behind, and fixed positions.

Text that the mask excludes has no influence. The residual stream, the norms, the modulation, the first and the
last layer are float32 whatever autocast says.

Shapes: B batch, C H W latent, N image tokens, L text tokens, S sequence, D width, p patch edge.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.attention import all_keys
from t2ilab.core.types import Condition
from t2ilab.models.blocks import Attention, SwiGLU
from t2ilab.models.inputs import check_sizes, needed, pooled_text, text_tokens
from t2ilab.models.layers import (
    PatchIn,
    RMSNorm,
    TimeEmbedding,
    full_precision,
    patch_grid,
    plain_norm,
    xavier_,
    zero_,
)
from t2ilab.models.passage import Passage
from t2ilab.models.rope import check_heads, rotations
from t2ilab.models.routing import Rule
from t2ilab.models.transformer import Embedded, Transformer

WIDEST_SIGNAL = 1024  # of the vector that modulates, as in Lumina


class SandwichBlock(nn.Module):
    """One block, modulated by a vector of `signal` numbers, or not at all if that is None."""

    def __init__(self, width: int, heads: int, *, kv_heads: int, hidden: int, signal: int | None) -> None:
        super().__init__()
        self.modulation = None if signal is None else nn.Linear(signal, 4 * width)
        self.attention = Attention(width, heads, kv_heads=kv_heads, qk_norm=True, bias=False)
        self.mlp = SwiGLU(width, hidden)
        self.before_1, self.after_1, self.before_2, self.after_2 = (RMSNorm(width) for _ in range(4))

    def forward(
        self, x: Tensor, vectors: Tensor | None, mask: Tensor | None, rotation: Tensor | None
    ) -> Tensor:
        """x (B, S, D), vectors (B, 1, 4 D) or None, mask (B, S) bool or None, rotation (S, K/2) or None."""
        if vectors is None:
            x = x + self.after_1(self.attention(self.before_1(x), mask, rotation=rotation))
            return x + self.after_2(self.mlp(self.before_2(x)))
        scale_1, gate_1, scale_2, gate_2 = vectors.chunk(4, -1)
        mixed = self.attention(self.before_1(x, 1 + scale_1), mask, rotation=rotation)
        x = x + self.after_1(mixed, gate_1.tanh())
        return x + self.after_2(self.mlp(self.before_2(x, 1 + scale_2)), gate_2.tanh())


class SingleStream(Transformer):
    """Single-stream diffusion transformer over latents, conditioned on text tokens and, if asked, pooled text.

    Latents of any height and width that the patch divides are accepted; positions go on counting.

    Args:
        in_channels: C of the latents.
        input_size: height and width of the usual latents.
        patch_size: edge p of a patch; N = (input_size / p)^2.
        overlap: pixels of the latents around its patch that a token is made from, see `PatchIn`.
        width, depth, heads: D, the number of blocks that both pass, heads of queries (D divisible by 4 heads).
        kv_heads: heads of keys and values, a divisor of `heads`.
        text_refiners: blocks that text passes alone, before.
        image_refiners: blocks that the image passes alone, before.
        text_dim: width of the text tokens.
        pooled_dim: width of a pooled text vector that is added to the time embedding; None, as in Lumina, to do
            without.
        mlp_ratio: hidden width of the SwiGLU over D.
        rope_theta: base of the frequencies of the rotary positions.
        routing: makes the rule by which image tokens are left out of some blocks in training; None for all in all.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        kv_heads: int,
        text_refiners: int,
        image_refiners: int,
        text_dim: int,
        pooled_dim: int | None,
        mlp_ratio: float,
        rope_theta: float,
        overlap: int = 0,
        routing: Rule | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "input_size": input_size, "patch_size": patch_size}
        check_sizes(**sizes, width=width, depth=depth, heads=heads, kv_heads=kv_heads, text_dim=text_dim)
        check_heads(width // heads)
        if heads % kv_heads:
            raise ValueError(f"model.heads must be divisible by model.kv_heads, got {heads} and {kv_heads}")
        if min(text_refiners, image_refiners) < 0:
            raise ValueError("model.text_refiners and model.image_refiners must not be negative")
        self.patch_size, self.depth = patch_size, depth
        self.width, self.head_dim = width, width // heads
        self.text_dim, self.pooled_dim, self.rope_theta = text_dim, pooled_dim, rope_theta
        patch, signal = patch_size * patch_size, min(width, WIDEST_SIGNAL)

        def blocks(number: int, signal: int | None) -> nn.ModuleList:
            hidden = int(mlp_ratio * width)
            make = partial(SandwichBlock, width, heads, kv_heads=kv_heads, hidden=hidden, signal=signal)
            return nn.ModuleList(make() for _ in range(number))

        self.patch_in = PatchIn(in_channels, patch_size, width, overlap=overlap)
        self.time = TimeEmbedding(signal)
        self.text_norm = RMSNorm(text_dim)
        self.text_in = nn.Linear(text_dim, width)
        self.pooled_in = None if pooled_dim is None else nn.Linear(pooled_dim, signal)
        self.text_blocks = blocks(text_refiners, None)
        self.image_blocks = blocks(image_refiners, signal)
        self.blocks = blocks(depth, signal)
        self.final_modulation = nn.Linear(signal, width)
        self.final = nn.Linear(width, in_channels * patch)
        self.initialise()
        self.routing = None if routing is None else routing(width=width, depth=depth)

    def initialise(self) -> None:
        """Xavier-uniform everywhere, N(0, 0.02) for time, zero for modulation and last layer."""
        xavier_(self)
        for weight in (self.time.hidden.weight, self.time.out.weight):
            nn.init.normal_(weight, std=0.02)
        modulated = [*self.image_blocks, *self.blocks]
        zero_([self.final, self.final_modulation, *(block.modulation for block in modulated)])

    def embed(self, x: Tensor, t: Tensor, cond: Condition | None) -> Embedded:
        cond = needed(cond)
        text = self.text_in(self.text_norm(text_tokens(cond, self.text_dim))).float()
        with full_precision(x):
            image = self.patch_in(x.float())
            signal = F.silu(self._vector(t, cond))[:, None]  # (B, 1, signal)
            vectors = [block.modulation(signal) for block in (*self.image_blocks, *self.blocks)]
            final_scale = self.final_modulation(signal)
        count, length = image.shape[1], text.shape[1]
        places = patch_grid(x, self.patch_size)
        rotation = rotations(self.head_dim, *places, theta=self.rope_theta, text=length, device=x.device)
        for block in self.text_blocks:
            text = block(text, None, cond.mask, None)
        for block, own in zip(self.image_blocks, vectors, strict=False):
            image = block(image, own, None, rotation[:count])
        tokens, mask = torch.cat([image, text], 1), all_keys(cond.mask, count)
        vectors = vectors[len(self.image_blocks) :]
        return Embedded(tokens, count, vectors, [final_scale], mask=mask, rotation=rotation)

    def block(
        self, number: int, tokens: Tensor, text: Tensor | None, given: Embedded, way: Passage
    ) -> tuple[Tensor, Tensor | None]:
        return self.blocks[number - 1](tokens, given.vectors[number - 1], way.mask, way.rotation), text

    def head(self, x: Tensor, tokens: Tensor, given: Embedded, way: Passage) -> Tensor:
        image = plain_norm(tokens[:, : way.count])
        return self.latents(x, self.final(image * (1 + given.final[0])), way)

    def _vector(self, t: Tensor, cond: Condition) -> Tensor:
        """The sum of time embedding and pooled text embedding, (B, signal)."""
        if self.pooled_in is None or self.pooled_dim is None:
            return self.time(t)
        return self.time(t) + self.pooled_in(plain_norm(pooled_text(cond, self.pooled_dim)))
