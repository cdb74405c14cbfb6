"""Latents that are laid out like the features of an image encoder, so that a denoiser learns them sooner.

With z_n = W m_n the latent at place n, linearly projected to the width of the encoder's features f_n, N places,

    L_cos  = 1/N   sum_n   relu(1 - margin_cos - cos(z_n, f_n)),
    L_dist = 1/N^2 sum_ij  relu(|cos(z_i, z_j) - cos(f_i, f_j)| - margin_dist),

L = L_cos + L_dist: each place like its feature, and places like each other where their features are. The margins
leave latents the freedom that reconstruction needs.
Source: Yao et al. 2025 (VA-VAE), arXiv 2501.01423. m is the posterior mean, of which latents are
made here; the official code draws from the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.frozen import Frozen
from t2ilab.features.base import FeatureEncoder


class LatentAlignment(nn.Module):
    """The loss above on what an encoder sees in the images.

    Args:
        encoder: makes the encoder (a partial node).
        margin_cos, margin_dist: see above, not negative.
        weight: the wanted proportion of its gradient to that of the others, at the encoder's last layer.
        largest_ratio: upper bound of the ratio of the gradients.
    """

    def __init__(
        self,
        *,
        encoder: Callable[[], FeatureEncoder],
        margin_cos: float,
        margin_dist: float,
        weight: float,
        largest_ratio: float,
    ) -> None:
        super().__init__()
        if min(margin_cos, margin_dist, weight) < 0:
            raise ValueError(
                "loss.latent_alignment.margin_cos, margin_dist and weight must not be negative, got "
                f"{margin_cos}, {margin_dist} and {weight}"
            )
        if not largest_ratio > 0:
            raise ValueError(f"loss.latent_alignment.largest_ratio must be positive, got {largest_ratio}")
        self.make_encoder = encoder
        self.margin_cos, self.margin_dist = margin_cos, margin_dist
        self.weight, self.largest_ratio = weight, largest_ratio

    def load(self, channels: int) -> None:
        """Reads the encoder and makes W for latents of so many channels."""
        encoder = self.make_encoder()
        self.encoder = Frozen(encoder)
        self.project = nn.Conv2d(channels, encoder.dim, 1, bias=False)

    def forward(self, latents: Tensor, images: Tensor) -> Tensor:
        """L of each row, (B,): latents (B, C, H, W) of images (B, 3, h, w) in [-1, 1]."""
        with torch.no_grad():
            wanted = self.features(images, (latents.shape[2], latents.shape[3]))
        found = self.project(latents)
        return marginal_cosine(found, wanted, self.margin_cos) + distance_matrix(
            found, wanted, self.margin_dist
        )

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features of images as a map of the size of the latents, (B, D, *grid)."""
        tokens = self.encoder(images)
        edge = math.isqrt(tokens.shape[1])
        return F.adaptive_avg_pool2d(tokens.mT.unflatten(2, (edge, edge)), grid)


def marginal_cosine(found: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """L_cos of maps (B, D, H, W), (B,)."""
    cosine = F.cosine_similarity(found.float(), wanted.float(), dim=1)
    return F.relu(1 - margin - cosine).flatten(1).mean(1)


def distance_matrix(found: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """L_dist of maps (B, D, H, W), (B,)."""
    return F.relu((_cosines(found) - _cosines(wanted)).abs() - margin).flatten(1).mean(1)


def _cosines(features: Tensor) -> Tensor:
    """cos(f_i, f_j) of all pairs of places, (B, N, N)."""
    unit = F.normalize(features.float().flatten(2), dim=1)
    return unit.mT @ unit
