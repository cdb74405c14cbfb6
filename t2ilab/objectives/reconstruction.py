"""Training of a variational autoencoder: reconstruction and the divergence of the posterior.

With z = m + s eps + r eps', eps and eps' ~ N(0, I), r ~ U(0, noise), per picture

    L = l1 mean|x - x^| + l2 mean (x - x^)^2 + kl mean KL(N(m, s^2) || N(0, 1)) + align mean (m' - thumb(x))^2,
    KL = (m^2 + s^2 - 1 - ln s^2) / 2  per latent number,

where m' are the first 3 k^2 channels of m (k the largest number that fits) and thumb(x) is the picture averaged
to k x k pixels per latent cell, folded into channels. Left alone, a small autoencoder packs a cell into a code
in which colour, background and outline are entangled and neighbouring cells look unrelated. With latents that
look like the picture a denoiser gets colours, counts and places right early. The rest of the channels is free to
carry what the thumbnail lacks. The noise r teaches the decoder to draw something sensible from latents that are
not quite right, which is what it gets from a denoiser.

All terms are means, over pixels and over latent numbers. Latent-diffusion code sums both and weighs the KL by
1e-6; there one latent number in 48 pixels-times-channels counts, so its 1e-6 is 1e-6 / 48 times the ratio
here.
Source: Kingma & Welling 2014, arXiv 1312.6114; Rombach et al. 2022, arXiv 2112.10752. The aim of the last term is
that of EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509) and scale equivariance (Skorokhodov et al. 2025,
arXiv 2502.14831); the term is ours. Noise on latents: Yang et al. 2025 (l-DeTok), arXiv 2507.15856.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.objectives.base import Losses


class GaussianAutoencoder(Protocol):
    """What the objective asks of a network."""

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, C, H, W)."""
        ...

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Images (B, 3, h, w) from latents."""
        ...


class Reconstruction(nn.Module):
    """The loss above.

    Args:
        l1, l2, kl, align: weights, none negative, l1 and l2 not both zero.
        noise: largest deviation of the further noise on the latents, not negative.
    """

    def __init__(self, *, l1: float, l2: float, kl: float, align: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        if min(l1, l2, kl, align, noise) < 0 or l1 + l2 == 0:
            raise ValueError(
                "loss.l1, loss.l2, loss.kl, loss.align, loss.noise must not be negative, nor l1 and l2 both 0: "
                f"got {l1}, {l2}, {kl}, {align}, {noise}"
            )
        self.l1, self.l2, self.kl, self.align, self.noise = l1, l2, kl, align, noise

    def forward(self, network: GaussianAutoencoder, images: Tensor, rng: RowRng) -> Losses:
        """Terms `reconstruction`, `kl` and, if asked for, `align`, weighted, (B,) each; images in [-1, 1]."""
        mean, log_variance = network.posterior(images)
        latent = mean + (0.5 * log_variance).exp() * rng.normal("posterior", *mean.shape[1:])
        if self.noise:
            deviation = self.noise * rng.uniform("latent noise level")
            latent = latent + deviation.view(-1, 1, 1, 1) * rng.normal("latent noise", *mean.shape[1:])
        error = network.reconstruct(latent).float() - images
        reconstruction = self.l1 * error.abs().flatten(1).mean(1) + self.l2 * error.square().flatten(1).mean(
            1
        )
        terms = {"reconstruction": reconstruction, "kl": self.kl * kl_divergence(mean, log_variance)}
        if self.align:
            target = thumbnail(images, mean.shape[1], images.shape[-1] // mean.shape[-1])
            away = mean[:, : target.shape[1]] - target
            terms["align"] = self.align * away.square().flatten(1).mean(1)
        return Losses(terms)


def thumbnail(images: Tensor, channels: int, factor: int) -> Tensor:
    """Pictures (B, 3, h, w) averaged to k x k pixels per latent cell and folded, (B, 3 k^2, h/factor, w/factor).

    k is the largest divisor of `factor` with 3 k^2 <= channels.

    Raises:
        ValueError: fewer than three channels.
    """
    fitting = [k for k in range(1, math.isqrt(channels // 3) + 1) if factor % k == 0]
    if not fitting:
        raise ValueError(
            f"loss.align needs autoencoder.channels of 3 or more, got {channels}: set loss.align=0"
        )
    return F.pixel_unshuffle(F.avg_pool2d(images, factor // fitting[-1]), fitting[-1])


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, s^2) || N(0, 1)), mean over the latent numbers of each row, (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
