"""Representation alignment: early hidden states learn to predict what a vision encoder sees in the clean image.

h are the student's hidden tokens behind an early part (B, N, D), y the encoder's patch tokens of the clean
image (B, N, d), g a small projector that learns along and is thrown away:

    REPA    -(1 / N) sum_n cos(g(h)_n, y_n)
    iREPA   the same with g a 3 x 3 convolution over the grid of tokens, and y normalised per image and channel
            over the tokens: y <- (y - gamma mean_n y) / (std_n y + 1e-6), which leaves the spatial structure;
            gamma is 0.6 for latents and 0.8 for pixels in the official training scripts

Where the student routes tokens, a tap inside the routed blocks holds the kept ones only and meets what the encoder
sees there. The encoder never sees noise and gets no gradient. The cosine is computed in float32.
Source: Yu et al. 2024 (REPA), arXiv 2410.06940, eq. 8; Singh et al. 2025 (iREPA), arXiv 2512.10794.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.features.base import FeatureEncoder
from t2ilab.models.layers import full_precision
from t2ilab.models.routing import pick, put
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput, TermWeight, tapped

PROJECTORS = ("mlp", "conv")


class REPA(Term):
    """The formula above.

    Args:
        weight: 0.5 in REPA.
        encoder: makes the encoder (a partial node).
        tap: where the student is read, such as `block4` or `mid`; None for an early place that the model names.
        dim: d of the encoder.
        hidden: width of the MLP projector; None for 2048 as in REPA, and 256 for encoders narrower than 768.
        projector: `mlp` or `conv`.
        normalise: gamma of iREPA, 0.6 or 0.8 there; null leaves the features as they are.
    """

    def __init__(
        self,
        weight: TermWeight,
        *,
        encoder: Callable[[], FeatureEncoder],
        tap: str | None,
        dim: int,
        hidden: int | None = None,
        projector: str = "mlp",
        normalise: float | None = None,
    ) -> None:
        super().__init__(weight)
        if projector not in PROJECTORS:
            raise ValueError(f"terms.repa.projector must be one of {', '.join(PROJECTORS)}, got {projector}")
        self.make_encoder, self.tap = encoder, tap
        self.hidden = hidden or (2048 if dim >= 768 else 256)
        self.dim, self.kind, self.normalise = dim, projector, normalise

    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        tap, width = tapped(student, self.tap, student.depths[0])
        self.taps = (tap,)
        self.projector = _conv(width, self.dim) if self.kind == "conv" else _mlp(width, self.hidden, self.dim)

    def forward(self, given: TermInput) -> Tensor:
        assert given.features is not None
        hidden = given.estimate.taps[self.taps[0]]
        kept, grid = given.estimate.kept_in(hidden), given.estimate.grid
        if kept is None or grid is None:
            grid = grid_of(hidden.shape[1], given.estimate.x_t)
        wanted = on_grid(given.features.float(), grid)
        if self.normalise is not None:
            mean, std = wanted.mean(1, keepdim=True), wanted.std(1, keepdim=True)
            wanted = (wanted - self.normalise * mean) / (std + 1e-6)
        if kept is not None:
            wanted = pick(wanted, kept)
        return -similarity(self._projected(hidden, kept, grid), wanted).mean(1)

    def _projected(self, hidden: Tensor, kept: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """What the projector makes of hidden tokens (B, n, D), (B, n, d); a convolution sees zeros for the others."""
        if self.kind == "mlp":
            projected: Tensor = self.projector(hidden)
            return projected
        if kept is not None:
            empty = hidden.new_zeros(hidden.shape[0], grid[0] * grid[1], hidden.shape[2])
            hidden = put(empty, kept, hidden)
        maps = self.projector(hidden.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        return maps if kept is None else pick(maps, kept)


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each pair of vectors (B, N, d), in float32 whatever autocast says; (B, N)."""
    with full_precision(a):
        return (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)


def grid_of(tokens: int, latents: Tensor) -> tuple[int, int]:
    """Rows and columns of `tokens` patches of latents (B, C, H, W)."""
    height, width = latents.shape[-2:]
    edge = math.isqrt(height * width // tokens)
    return height // edge, width // edge


def on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (B, n, d) of a square grid, resized to `grid` if that is another one; (B, rows columns, d)."""
    side = math.isqrt(features.shape[1])
    if side * side != features.shape[1]:
        raise ValueError(f"an encoder gave {features.shape[1]} patches, which make no square grid")
    if grid == (side, side):
        return features
    maps = features.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(maps, size=grid, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def _mlp(width: int, hidden: int, dim: int) -> nn.Module:
    layers = [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, dim)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])


def _conv(width: int, dim: int) -> nn.Module:
    conv = nn.Conv2d(width, dim, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight.view(dim, -1))
    nn.init.zeros_(torch.as_tensor(conv.bias))
    return conv
