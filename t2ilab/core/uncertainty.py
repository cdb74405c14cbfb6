"""EDM2's learned weighting: every noise level weighs as its own uncertainty says.

A small network u(t) of the noise level learns along with the denoiser:

    L(t) = w(t) error(t) / exp(u(t)) + u(t),

whose minimum over u is exp(u) = E[w error | t]: each level then contributes a gradient of equal size, however large
its loss is, and the value of L is 1 + u. The network is dropped after training.
Source: Karras et al. 2023 (EDM2), arXiv 2312.02696, eq. 14-15, after Kendall et al. 2018, arXiv 1705.07115. There
u is a magnitude-preserving linear layer; ours is a plain one that starts at zero, so that the first loss is that of
w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from t2ilab.core.path import Path
from t2ilab.core.rng import generator
from t2ilab.core.weighting import Weighting

_LARGEST = 30.0  # log SNR beyond which u is constant


class Uncertainty(nn.Module, Weighting):
    """The formula above.

    u = linear(sqrt(2) cos(2 pi (f c + phi))) with c = -log SNR / 8 (ln(sigma) / 4 on EDM's path), f standard normal
    and phi uniform, both fixed.

    Args:
        base: w; None for 1 on the objective's own error. Its space becomes that of the error.
        frequencies: number of features.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, base: Weighting | None = None, *, frequencies: int = 128) -> None:
        super().__init__()
        if frequencies < 1:
            raise ValueError(f"weighting.frequencies must be at least 1, got {frequencies}")
        self.base, self.space = base, None if base is None else base.space
        draw = generator(0, "uncertainty")
        self.register_buffer("frequencies", torch.randn(frequencies, generator=draw))
        self.register_buffer("phases", torch.rand(frequencies, generator=draw))
        self.linear = nn.Linear(frequencies, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def __call__(self, t: Tensor, path: Path) -> Tensor:
        """w(t), (B,)."""
        return torch.ones_like(t) if self.base is None else self.base(t, path)

    def log_variance(self, t: Tensor, path: Path) -> Tensor:
        """u(t), (B,) float32."""
        level = -path.log_snr(t).clamp(-_LARGEST, _LARGEST).float() / 8
        angles = 2 * math.pi * (level[:, None] * self.frequencies + self.phases)
        with torch.autocast(t.device.type, enabled=False):
            u: Tensor = self.linear(math.sqrt(2) * angles.cos())[:, 0]
        return u

    def settle(self, error: Tensor, t: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        u = self.log_variance(t, path)
        counted = error * torch.exp(-u)
        return counted, counted + u
