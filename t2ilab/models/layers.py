"""Small pieces that the networks share: the embedding of time, normalisation, patches, initial weights.

Shapes: B batch, C H W channels, height, width, N tokens, D width of the network, p patch edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, dim: int, *, max_period: float = 10_000.0) -> Tensor:
    """[cos(t w_i) | sin(t w_i)] with w_i = max_period^(-i / (dim/2)), in float32.

    Args:
        t: times, already scaled (0..1000 for t in [0, 1]), (B,).
        dim: even width of the embedding.
    Returns:
        (B, dim).
    Source: the timestep embedding of DiT (Peebles & Xie 2023, arXiv 2212.09748).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """A context without autocast on the device of `x` (meta tensors know no autocast)."""
    if x.device.type == "meta":
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, for x (B, N, D) and shift, scale (B, 1, D), in one pass over x."""
    return torch.addcmul(shift, x, 1 + scale)


def plain_norm(x: Tensor) -> Tensor:
    """Layer normalisation without parameters, eps 1e-6, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) * weight over the last dimension, computed in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The type of x is kept; `scale` multiplies the weight first, which saves a pass over x."""
        weight = self.weight if scale is None else self.weight * scale
        wide = x.float()
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight).to(x.dtype)


class TimeEmbedding(nn.Module):
    """Linear(SiLU(Linear(sinusoid(t)))): 256 frequencies' worth of time to the width of the network."""

    def __init__(self, width: int, *, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        return self.out(F.silu(self.hidden(sinusoid(t, self.frequencies))))


def patch_grid(x: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in x (B, C, H, W)."""
    return x.shape[-2] // patch, x.shape[-1] // patch


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C p p): non-overlapping patches, row by row."""
    batch, channels, height, width = x.shape
    if height % patch or width % patch:
        raise ValueError(
            f"a {height}x{width} input cannot be cut into patches of {patch}x{patch}: choose another "
            "model.patch_size"
        )
    x = x.view(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


class PatchIn(nn.Linear):
    """Latents to tokens, (B, C, H, W) -> (B, N, D): a linear layer over each patch and `overlap` pixels around it.

    With an overlap it is a convolution of p + 2 o pixels at stride p, with zeros beyond the border, so that a token
    knows its neighbourhood before the first attention. The published transformers have none.
    Source: Wang et al. 2021 (PVTv2), arXiv 2106.13797; why it learns sooner: Xiao et al. 2021, arXiv 2106.14881.
    """

    def __init__(self, channels: int, patch: int, width: int, *, overlap: int = 0) -> None:
        if overlap < 0:
            raise ValueError(f"model.overlap must not be negative, got {overlap}")
        super().__init__(channels * (patch + 2 * overlap) ** 2, width)
        self.patch, self.overlap = patch, overlap

    def forward(self, x: Tensor) -> Tensor:
        patches = patchify(x, self.patch)  # refuses what cannot be cut
        if self.overlap:
            size = self.patch + 2 * self.overlap
            patches = F.unfold(x, size, padding=self.overlap, stride=self.patch).transpose(1, 2)
        return super().forward(patches)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, N, C p p) -> (B, C, H, W), the inverse of `patchify` for an input of `height` x `width`."""
    x = tokens.unflatten(-1, (-1, patch, patch)).unflatten(1, (height // patch, width // patch))
    return x.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], -1, height, width)


def xavier_(network: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in all linear layers, as DiT starts."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero_(layers: Iterable[nn.Module]) -> None:
    """Zero weights and biases."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
