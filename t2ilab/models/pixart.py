"""PixArt (Chen et al. 2023, arXiv 2310.00426): a DiT with cross-attention to the text and adaLN-single.

One layer gives six vectors a(t) for all blocks, and each block adds a learned table of its own to them,

    x = x + gate_1 Attention(norm(x) (1 + scale_1) + shift_1)
    x = x + CrossAttention(x, text)
    x = x + gate_2 MLP(norm(x) (1 + scale_2) + shift_2)

which saves a third of DiT's parameters. The tables start random and the last layer of the cross-attention at zero,
as does the last layer of all: so the output is 0 at the start, while the blocks already mix image tokens.
Text that the mask excludes has no influence. Published weights can be brought over: `convert_pixart.py`. The
residual stream, the norms, the modulation, the first and the last layer are float32 whatever autocast says.

Shapes: B batch, C H W latent, N image tokens, L text tokens, D width, p patch edge.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.types import Condition
from t2ilab.models.blocks import ACTIVATIONS, MLP, Attention, CrossAttention
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
from t2ilab.models.positions import GridPositions
from t2ilab.models.routing import Rule
from t2ilab.models.transformer import Embedded, Transformer


class PixArtBlock(nn.Module):
    """One block; its six modulation vectors are `table` plus those of the time."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, activation: str) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attention = Attention(width, heads)
        self.cross = CrossAttention(width, heads)
        self.mlp = MLP(width, int(mlp_ratio * width), activation=activation)

    def forward(self, x: Tensor, vectors: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """x (B, N, D), vectors (B, 6, D), text (B, L, D), mask (B, L) bool."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.table + vectors).chunk(6, 1)
        x = x + gate_1 * self.attention(modulate(plain_norm(x), shift_1, scale_1), None)
        x = x + self.cross(x, text, mask)
        return x + gate_2 * self.mlp(modulate(plain_norm(x), shift_2, scale_2))


class PixArt(Transformer):
    """Diffusion transformer over latents that reads text by cross-attention only.

    A grid of another size than `input_size` is accepted: its positions are interpolated from that size.

    Args:
        in_channels: C of the latents.
        input_size: height and width of the latents that positions are made for.
        patch_size: edge p of a patch; N = (input_size / p)^2.
        overlap: pixels of the latents around its patch that a token is made from, see `PatchIn`.
        width, depth, heads: D, the number of blocks, attention heads (D divisible by heads and by 4).
        text_dim: width of the text tokens, which a two-layer network brings to D.
        pooled_dim: width of a pooled text vector that is added to the time embedding; None, as in the paper, to do
            without.
        norm_text: bring text vectors to zero mean and unit variance first, so that any text encoder starts alike;
            the published weights want them as they are.
        learn_sigma: give 2 C output channels, the second half for a variance, as published weights and sizes do; no
            objective or sampler here reads it.
        mlp_ratio: hidden width of the MLP over D.
        activation: of the MLP, gelu or gelu_tanh.
        position_scale: divides the coordinates; the resolution over 512 in the paper.
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
        learn_sigma: bool = False,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        position_scale: float = 1.0,
        overlap: int = 0,
        routing: Rule | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "input_size": input_size, "patch_size": patch_size}
        check_sizes(**sizes, width=width, depth=depth, heads=heads, text_dim=text_dim)
        check_choice("activation", activation, list(ACTIVATIONS))
        if not position_scale > 0:
            raise ValueError(f"model.position_scale must be positive, got {position_scale}")
        self.in_channels, self.patch_size, self.depth = in_channels, patch_size, depth
        self.overlap = overlap
        self.width, self.heads = width, heads
        self.text_dim, self.pooled_dim, self.norm_text = text_dim, pooled_dim, norm_text
        self.mlp_ratio, self.activation = mlp_ratio, activation
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        patch, edge = patch_size * patch_size, input_size // patch_size
        self.patch_in = PatchIn(in_channels, patch_size, width, overlap=overlap)
        self.positions = GridPositions(width, edge, base=edge, scale=position_scale)
        self.time = TimeEmbedding(width)
        self.modulation = nn.Linear(width, 6 * width)
        self.text_in = MLP(text_dim, width, out=width, activation="gelu_tanh")
        self.pooled_in = nn.Linear(pooled_dim, width) if pooled_dim is not None else None
        self.blocks = nn.ModuleList(
            PixArtBlock(width, heads, mlp_ratio=mlp_ratio, activation=activation) for _ in range(depth)
        )
        self.final_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.final = nn.Linear(width, self.out_channels * patch)
        self.initialise()
        self.routing = None if routing is None else routing(width=width, depth=depth)

    def initialise(self) -> None:
        """Xavier-uniform, N(0, 0.02) for time, modulation and text, zero where the text and the output leave."""
        xavier_(self)
        for layer in (self.time, self.text_in):
            nn.init.normal_(layer.hidden.weight, std=0.02)
            nn.init.normal_(layer.out.weight, std=0.02)
        nn.init.normal_(self.modulation.weight, std=0.02)
        crossings = [module for module in self.modules() if isinstance(module, CrossAttention)]
        zero_([self.final, *(cross.out for cross in crossings)])

    def embed(self, x: Tensor, t: Tensor, cond: Condition | None) -> Embedded:
        cond = needed(cond)
        tokens = text_tokens(cond, self.text_dim)
        text = self.text_in(plain_norm(tokens) if self.norm_text else tokens)
        with full_precision(x):
            image = self.patch_in(x.float())
            image = image + self.positions(*patch_grid(x, self.patch_size))
            vector = self.time(t)
            if self.pooled_in is not None and self.pooled_dim is not None:
                vector = vector + self.pooled_in(plain_norm(pooled_text(cond, self.pooled_dim)))
            vectors = self.modulation(F.silu(vector)).unflatten(-1, (6, -1))  # (B, 6, D), for all blocks
        return Embedded(
            image, image.shape[1], [vectors] * self.depth, [vector[:, None]], text=text, text_mask=cond.mask
        )

    def block(
        self, number: int, tokens: Tensor, text: Tensor | None, given: Embedded, way: Passage
    ) -> tuple[Tensor, Tensor | None]:
        return self.blocks[number - 1](tokens, given.vectors[number - 1], text, given.text_mask), text

    def head(self, x: Tensor, tokens: Tensor, given: Embedded, way: Passage) -> Tensor:
        shift, scale = (self.final_table + given.final[0]).chunk(2, 1)
        return self.latents(x, self.final(modulate(plain_norm(tokens), shift, scale)), way)
