"""The diffusion transformer with adaLN-Zero (Peebles & Xie 2023, arXiv 2212.09748), with text.

With c = time(t) [+ pooled text or label] a block computes, from six vectors a(c) that start at zero,

    x = x + gate_1 Attention(norm(x) (1 + scale_1) + shift_1)
    x = x + gate_2 MLP(norm(x) (1 + scale_2) + shift_2)

so at the start every block is the identity and the network's output is exactly 0. Three ways to read text:

    joint   text tokens stand in the sequence beside the image tokens and share all weights
    kv      text tokens give further keys and values to the attention of every block, and stay as they are
    cross   every block has a cross-attention to the text, its output layer starts at zero

Text that the mask excludes has no influence in any of them. The residual stream, the norms, the modulation,
the first and the last layer are float32 whatever autocast says.

Shapes: B batch, C H W latent, N image tokens, L text tokens, S sequence, D width, p patch edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.attention import all_keys
from t2ilab.core.types import Condition
from t2ilab.models.blocks import ACTIVATIONS
from t2ilab.models.class_token import ClassToken, check_channels
from t2ilab.models.dit_block import Block
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

CONTEXTS = ("joint", "kv", "cross")


class DiT(Transformer):
    """Diffusion transformer over latents, conditioned on text tokens, a pooled text vector, or a class label.

    A grid of another size than `input_size` is accepted: its sine-cosine positions are interpolated from that
    size, its rotary positions go on counting.

    Args:
        in_channels: C of the latents.
        input_size: height and width of the latents that positions are made for.
        patch_size: edge p of a patch; N = (input_size / p)^2.
        overlap: pixels of the latents around its patch that a token is made from, see `PatchIn`.
        width, depth, heads: D, the number of blocks, attention heads (D divisible by heads and by 4).
        text_dim: width of the text tokens; None for a network without text tokens.
        pooled_dim: width of the pooled text vector that is added to the time embedding; None to do without.
        num_classes: labels instead of text (see `label_condition`); one more row stands for "no label".
        context: how text tokens are read: joint, kv or cross.
        learn_sigma: give 2 C output channels, the second half for a variance, as published weights and sizes do; no
            objective or sampler here reads it.
        mlp_ratio: hidden width of the MLP over D.
        activation: of the MLP, gelu or, as in the published weights, gelu_tanh.
        qk_norm: RMS normalisation of queries and keys, per head.
        positions: of the image tokens: sincos, added to them at the start, or rope, which turns queries and keys
            in every block.
        skips: connect block i with block depth - 1 - i (after U-ViT, Bao et al. 2023, arXiv 2209.12152).
        routing: makes the rule by which image tokens are left out of some blocks in training; None for all in all.
        class_dim, class_channels: the last `class_channels` of `in_channels` carry a vector of `class_dim` numbers
            (REG), which is one more token behind the image's; None and 0 for images alone.
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
        text_dim: int | None = None,
        pooled_dim: int | None = None,
        num_classes: int | None = None,
        context: str = "joint",
        learn_sigma: bool = False,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        qk_norm: bool = False,
        positions: str = "sincos",
        skips: bool = False,
        overlap: int = 0,
        routing: Rule | None = None,
        class_dim: int | None = None,
        class_channels: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "input_size": input_size, "patch_size": patch_size}
        check_sizes(**sizes, width=width, depth=depth, heads=heads)
        check_choice("context", context, CONTEXTS)
        check_choice("activation", activation, list(ACTIVATIONS))
        check_labels(num_classes, text_dim, pooled_dim)
        check_channels(class_dim, class_channels, in_channels, input_size)
        self.patch_size, self.depth = patch_size, depth
        self.width, self.head_dim = width, width // heads
        self.text_dim, self.pooled_dim, self.num_classes = text_dim, pooled_dim, num_classes
        self.context = context if text_dim is not None else None
        self.skips = skips
        image_channels = in_channels - class_channels
        self.out_channels = image_channels * (2 if learn_sigma else 1)
        patch = patch_size * patch_size
        self.patch_in = PatchIn(image_channels, patch_size, width, overlap=overlap)
        self.time = TimeEmbedding(width)
        self.text_in = nn.Linear(text_dim, width) if text_dim is not None else None
        self.pooled_in = nn.Linear(pooled_dim, width) if pooled_dim is not None else None
        self.labels = nn.Embedding(num_classes + 1, width) if num_classes is not None else None
        joined = [skips and index >= (depth + 1) // 2 for index in range(depth)]
        block = partial(Block, width, heads, mlp_ratio=mlp_ratio, activation=activation, qk_norm=qk_norm)
        self.blocks = nn.ModuleList(block(context=self.context, skip=skip) for skip in joined)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, self.out_channels * patch)
        self.class_token = None if class_dim is None else ClassToken(class_dim, class_channels, width)
        edge = input_size // patch_size
        self.positions = table_of(positions, width=width, heads=heads, edge=edge)
        self.initialise()
        self.routing = None if routing is None else routing(width=width, depth=depth)
        self.check_joins()

    def check_joins(self) -> None:
        """Refuses routed blocks that are joined to blocks outside of the stretch."""
        if self.skips and self.routing is not None and self.routing.first + self.routing.last != self.depth:
            raise ValueError(
                "model.skips joins a block to its mirror image, so routing has to be symmetric: choose "
                f"model.routing.first + last = model.depth={self.depth}, or model.skips=false"
            )

    def initialise(self) -> None:
        """Xavier-uniform everywhere, N(0, 0.02) for time and labels, zero where adaLN-Zero wants it."""
        xavier_(self)
        for weight in (self.time.hidden.weight, self.time.out.weight):
            nn.init.normal_(weight, std=0.02)
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.02)
        silent: list[nn.Module] = [self.final, self.final_modulation]
        for block in cast(Iterable[Block], self.blocks):
            silent.append(block.modulation)
            silent += [] if block.cross is None else [block.cross.out]
            silent += [] if block.skip is None else [block.skip]
        silent += [] if self.class_token is None else [self.class_token.out]
        zero_(silent)

    def embed(self, x: Tensor, t: Tensor, cond: Condition | None) -> Embedded:
        grid = patch_grid(x, self.patch_size)
        with full_precision(x):
            image, more = (x, []) if self.class_token is None else self.class_token.enter(x.float())
            tokens = self.patch_in(image.float())
            if self.positions is not None:
                tokens = tokens + self.positions(*grid)
            signal = F.silu(self._vector(t, cond))[:, None]  # (B, 1, D)
            vectors = [block.modulation(signal) for block in cast(Iterable[Block], self.blocks)]
            final = self.final_modulation(signal).chunk(2, -1)
        made = Embedded(torch.cat([tokens, *more], 1), tokens.shape[1], vectors, final)
        keys = made.tokens.shape[1]
        text, mask = self._text(cond)
        if self.context == "cross":
            made.text, made.text_mask = text, mask
        elif text is not None and mask is not None:  # the mask speaks of image tokens, too
            made.mask = all_keys(mask, keys)
            keys = made.mask.shape[1]
            if self.context == "joint":
                made.tokens = torch.cat([made.tokens, text.float()], 1)
            else:
                made.text = text
        if self.positions is None:
            beside = keys - made.count
            made.rotation = rotations(self.head_dim, *grid, theta=THETA, text=beside, device=x.device)
        return made

    def block(
        self, number: int, tokens: Tensor, text: Tensor | None, given: Embedded, way: Passage
    ) -> tuple[Tensor, Tensor | None]:
        mask = given.text_mask if self.context == "cross" else way.mask
        return self.blocks[number - 1](tokens, given.vectors[number - 1], mask, text, way.rotation), text

    def head(self, x: Tensor, tokens: Tensor, given: Embedded, way: Passage) -> Tensor:
        tokens = tokens[:, : way.count + (self.class_token is not None)]
        tokens = modulate(plain_norm(tokens), *given.final)
        out = self.latents(x, self.final(tokens[:, : way.count]), way)
        return out if self.class_token is None else self.class_token.leave(out, tokens[:, way.count :])

    def _vector(self, t: Tensor, cond: Condition | None) -> Tensor:
        """The sum of time embedding and pooled text or label embedding, (B, D)."""
        vector = self.time(t)
        if self.pooled_in is not None and self.pooled_dim is not None:
            vector = vector + self.pooled_in(plain_norm(pooled_text(cond, self.pooled_dim)))
        if self.labels is not None:
            if cond is None:
                raise ValueError("a model with model.num_classes needs labels: see label_condition")
            vector = vector + self.labels(cond.tokens[:, 0, 0].long())
        return vector

    def _text(self, cond: Condition | None) -> tuple[Tensor | None, Tensor | None]:
        """Text tokens at the width of the network (B, L, D), and their mask (B, L)."""
        if self.text_in is None or self.text_dim is None:
            return None, None
        cond = needed(cond)
        tokens = self.text_in(plain_norm(text_tokens(cond, self.text_dim)))
        return tokens, cond.mask


def check_labels(num_classes: int | None, text_dim: int | None, pooled_dim: int | None) -> None:
    """Refuses labels beside text."""
    if num_classes is not None and (text_dim is not None or pooled_dim is not None):
        raise ValueError(
            "model.num_classes excludes model.text_dim and model.pooled_dim: choose labels or text"
        )


def label_condition(labels: Tensor) -> Condition:
    """Class labels (B,) as the condition a DiT with `num_classes` reads; num_classes itself is "no label"."""
    return Condition(labels.float()[:, None, None], torch.ones_like(labels, dtype=torch.bool)[:, None])
