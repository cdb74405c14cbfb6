"""Training of a variational autoencoder: reconstruction and the divergence of the posterior.

With z = m + s eps + r d(m) eps', eps and eps' ~ N(0, I), r ~ U(0, noise) and d(m) the std of m over an
image's latent numbers, per image

    L = l1 mean|x - x^| + l2 mean (x - x^)^2 + kl mean KL(N(m, s^2) || N(0, 1)),
    KL = (m^2 + s^2 - 1 - ln s^2) / 2  per latent number.

The noise r d(m) says what a latent code is for. A denoiser's latents are never quite right; trained with noise,
the encoder gives much room to what matters most in an image (on the synthetic data set: which shape, which colour)
and the decoder draws something whole from latents between two codes. Measured in units of d(m) it cannot be
escaped by larger latents.

All terms are means, over pixels and over latent numbers. Latent-diffusion code sums both and weighs the KL by
1e-6; with 48 pixel values to a latent number (4 channels, factor 8) that is kl = 1e-6 / 48 here.
Source: Kingma & Welling 2014, arXiv 1312.6114; Rombach et al. 2022, arXiv 2112.10752. Noise on latents: Yang et
al. 2025 (l-DeTok), arXiv 2507.15856, who interpolate between latents and noise, where this adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Objective
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.turns import STUDENT


class GaussianAutoencoder(Protocol):
    """What the objective asks of a network."""

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each (B, C, H, W)."""
        ...

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Images (B, 3, h, w) from latents."""
        ...


class Reconstruction(Objective):
    """The loss above, of images (B, 3, h, w) in [-1, 1].

    Args:
        l1, l2, kl: weights, none negative, l1 and l2 not both zero.
        noise: largest r, not negative.
    """

    trains = "autoencoder"

    def __init__(self, *, l1: float, l2: float, kl: float, noise: float = 0.0) -> None:
        super().__init__()
        if min(l1, l2, kl, noise) < 0 or l1 + l2 == 0:
            raise ValueError(
                "loss.l1, loss.l2, loss.kl, loss.noise must not be negative, nor l1 and l2 both 0: "
                f"got {l1}, {l2}, {kl}, {noise}"
            )
        self.l1, self.l2, self.kl, self.noise = l1, l2, kl, noise

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """Terms `reconstruction` and `kl`, weighted, (B,) each."""
        mean, log_variance, rebuilt = self.rebuilt(batch.x0, rng)
        terms = {
            "reconstruction": self.pixel_error(rebuilt, batch.x0),
            "kl": self.kl * kl_divergence(mean, log_variance),
        }
        return Losses(terms)

    def rebuilt(self, images: Tensor, rng: RowRng) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of the posterior, (B, C, H, W) each, and x^ (B, 3, h, w) float32."""
        network: GaussianAutoencoder = self.student
        mean, log_variance = network.posterior(images)
        return mean, log_variance, network.reconstruct(self.latent(mean, log_variance, rng)).float()

    def latent(self, mean: Tensor, log_variance: Tensor, rng: RowRng) -> Tensor:
        """z = m + s eps + r d(m) eps', (B, C, H, W)."""
        latent = mean + (0.5 * log_variance).exp() * rng.normal("posterior", *mean.shape[1:])
        if self.noise:
            spread = mean.detach().flatten(1).std(1)
            std = self.noise * rng.uniform("latent noise level") * spread
            latent = latent + std.view(-1, 1, 1, 1) * rng.normal("latent noise", *mean.shape[1:])
        return latent

    def pixel_error(self, rebuilt: Tensor, images: Tensor) -> Tensor:
        """l1 mean|x - x^| + l2 mean (x - x^)^2, (B,)."""
        error = rebuilt - images
        absolute, squared = error.abs().flatten(1).mean(1), error.square().flatten(1).mean(1)
        return self.l1 * absolute + self.l2 * squared


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, s^2) || N(0, 1)), mean over the latent numbers of each row, (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
