"""MM-DiT, the two-stream transformer of Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206, figure 2).

Image and text tokens have their own weights and meet in one attention per block. With c = time(t) + pooled text,
each stream computes, from six vectors a(c) of its own that start at zero,

    x = x + gate_1 out(mixed),    mixed = the stream's part of Attention over both, of norm(x) (1 + scale_1) + shift_1
    x = x + gate_2 MLP(norm(x) (1 + scale_2) + shift_2)

The text of the last block gives keys and values only; what its queries find is not used, as in the published code.
Text that the mask excludes has no influence. Published weights can be brought over: `convert_sd3.py`. The residual
streams, the norms, the modulation, the first and the last layer are float32 whatever autocast says.

Shapes: B batch, C H W latent, N image tokens, L text tokens, D width, p patch edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.attention import all_keys, attend, merge_heads
from t2ilab.core.types import Condition
from t2ilab.models.blocks import ACTIVATIONS, MLP, Attention
from t2ilab.models.inputs import check_choice, check_sizes, needed, pooled_text, text_tokens
from t2ilab.models.layers import (
    PatchIn,
    TimeEmbedding,
    full_precision,
    modulate,
    patch_grid,
    plain_norm,
    xavier_,
    zero_,
)
from t2ilab.models.passage import Passage
from t2ilab.models.positions import table_of
from t2ilab.models.rope import THETA, rotations
from t2ilab.models.routing import Rule
from t2ilab.models.transformer import Embedded, Transformer


class Stream(nn.Module):
    """The weights that one kind of token has in a block; `last` leaves out what comes after the attention."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float, qk_norm: bool, activation: str, last: bool = False
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, (2 if last else 6) * width)
        self.attention = Attention(width, heads, qk_norm=qk_norm, output=not last)
        self.mlp = None if last else MLP(width, int(mlp_ratio * width), activation=activation)

    def project(
        self, x: Tensor, modulation: Sequence[Tensor], rotation: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, S, D); modulation 2 or 6 vectors (B, 1, D)."""
        return self.attention.project(modulate(plain_norm(x), *modulation[:2]), rotation=rotation)

    def update(self, x: Tensor, mixed: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """x (B, S, D) after the attention found `mixed` (B, S, D), and after the MLP."""
        assert self.attention.out is not None and self.mlp is not None, "the last text is not updated"
        gate_1, shift_2, scale_2, gate_2 = modulation[2:]
        x = x + gate_1 * self.attention.out(mixed)
        return x + gate_2 * self.mlp(modulate(plain_norm(x), shift_2, scale_2))


class JointBlock(nn.Module):
    """Two streams and one attention over both."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float, qk_norm: bool, activation: str, last: bool
    ) -> None:
        super().__init__()
        stream = partial(Stream, width, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, activation=activation)
        self.image, self.text = stream(), stream(last=last)
        self.last = last

    def modulations(self, signal: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The vectors (B, 1, D) of image and text for a signal (B, 1, D)."""
        text = self.text.modulation(signal).chunk(2 if self.last else 6, -1)
        return self.image.modulation(signal).chunk(6, -1), text

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        modulations: tuple[Sequence[Tensor], Sequence[Tensor]],
        mask: Tensor,
        rotation: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """image (B, N, D), text (B, L, D), mask (B, N + L) bool, rotation of the image's places or None."""
        count, (for_image, for_text) = image.shape[1], modulations
        parts = self.image.project(image, for_image, rotation), self.text.project(text, for_text)
        q, k, v = (torch.cat(pair, 2) for pair in zip(*parts, strict=True))
        mixed = merge_heads(attend(q, k, v, mask))
        image = self.image.update(image, mixed[:, :count], for_image)
        return image, text if self.last else self.text.update(text, mixed[:, count:], for_text)


class MMDiT(Transformer):
    """Two-stream diffusion transformer over latents, conditioned on text tokens and a pooled text vector.

    A grid of another size than `input_size` is accepted. Sine-cosine positions are then interpolated, or, with
    `position_max`, cut from a larger table; rotary positions go on counting.

    Args:
        in_channels: C of the latents.
        input_size: height and width of the latents that positions are made for.
        patch_size: edge p of a patch; N = (input_size / p)^2.
        overlap: pixels of the latents around its patch that a token is made from, see `PatchIn`.
        width, depth, heads: D, the number of blocks, attention heads; D = 64 depth with depth heads in SD3.
        text_dim: width of the text tokens.
        pooled_dim: width of the pooled text vector; None to do without.
        norm_text: bring text vectors to zero mean and unit variance first, so that any text encoder starts alike;
            the published weights want them as they are.
        mlp_ratio: hidden width of the MLPs over D.
        activation: of the MLPs, gelu or gelu_tanh.
        qk_norm: RMS normalisation of queries and keys, per head; SD3.5 has it, for bf16 at high resolution.
        positions: of the image tokens: sincos, added at the start, or rope, which turns queries and keys.
        position_max: edge, in patches, of the table that sine-cosine positions are cut from; None: interpolate.
        position_base: range of the coordinates of that table; None without a table.
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
        text_dim: int,
        pooled_dim: int | None = None,
        norm_text: bool = True,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        qk_norm: bool = False,
        positions: str = "sincos",
        position_max: int | None = None,
        position_base: int | None = None,
        overlap: int = 0,
        routing: Rule | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "input_size": input_size, "patch_size": patch_size}
        check_sizes(**sizes, width=width, depth=depth, heads=heads, text_dim=text_dim)
        check_choice("activation", activation, list(ACTIVATIONS))
        self.in_channels, self.patch_size, self.depth = in_channels, patch_size, depth
        self.overlap = overlap
        self.width, self.heads = width, heads
        self.text_dim, self.pooled_dim, self.norm_text = text_dim, pooled_dim, norm_text
        self.mlp_ratio, self.activation, self.qk_norm = mlp_ratio, activation, qk_norm
        patch = patch_size * patch_size
        self.patch_in = PatchIn(in_channels, patch_size, width, overlap=overlap)
        self.time = TimeEmbedding(width)
        self.text_in = nn.Linear(text_dim, width)
        self.pooled_in = None if pooled_dim is None else MLP(pooled_dim, width, out=width, activation="silu")
        self.blocks = nn.ModuleList(
            JointBlock(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                qk_norm=qk_norm,
                activation=activation,
                last=number == depth,
            )
            for number in range(1, depth + 1)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, in_channels * patch)
        self.positions = table_of(
            positions,
            width=width,
            heads=heads,
            edge=input_size // patch_size,
            size=position_max,
            base=position_base,
        )
        self.initialise()
        self.routing = None if routing is None else routing(width=width, depth=depth)

    def initialise(self) -> None:
        """Xavier-uniform everywhere, N(0, 0.02) for time and pooled text, zero for modulation and last layer."""
        xavier_(self)
        for embedding in (self.time, self.pooled_in):
            if embedding is not None:
                nn.init.normal_(embedding.hidden.weight, std=0.02)
                nn.init.normal_(embedding.out.weight, std=0.02)
        streams = [module for module in self.modules() if isinstance(module, Stream)]
        zero_([self.final, self.final_modulation, *(stream.modulation for stream in streams)])

    def embed(self, x: Tensor, t: Tensor, cond: Condition | None) -> Embedded:
        grid, cond = patch_grid(x, self.patch_size), needed(cond)
        tokens = text_tokens(cond, self.text_dim)
        text = self.text_in(plain_norm(tokens) if self.norm_text else tokens).float()
        with full_precision(x):
            image = self.patch_in(x.float())
            if self.positions is not None:
                image = image + self.positions(*grid)
            signal = F.silu(self._vector(t, cond))[:, None]  # (B, 1, D)
            vectors = [block.modulations(signal) for block in cast(Iterable[JointBlock], self.blocks)]
            final = self.final_modulation(signal).chunk(2, -1)
        mask, rotation = all_keys(cond.mask, image.shape[1]), None
        if self.positions is None:
            rotation = rotations(self.width // self.heads, *grid, theta=THETA, device=x.device)
        return Embedded(image, image.shape[1], vectors, final, text=text, mask=mask, rotation=rotation)

    def block(
        self, number: int, tokens: Tensor, text: Tensor | None, given: Embedded, way: Passage
    ) -> tuple[Tensor, Tensor | None]:
        return self.blocks[number - 1](tokens, text, given.vectors[number - 1], way.mask, way.rotation)

    def head(self, x: Tensor, tokens: Tensor, given: Embedded, way: Passage) -> Tensor:
        return self.latents(x, self.final(modulate(plain_norm(tokens), *given.final)), way)

    def _vector(self, t: Tensor, cond: Condition) -> Tensor:
        """The sum of time embedding and pooled text embedding, (B, D)."""
        if self.pooled_in is None or self.pooled_dim is None:
            return self.time(t)
        pooled = pooled_text(cond, self.pooled_dim)
        return self.time(t) + self.pooled_in(plain_norm(pooled) if self.norm_text else pooled.float())
