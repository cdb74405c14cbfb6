"""Training of a variational autoencoder: reconstruction and the divergence of the posterior.

With z = m + s eps, eps ~ N(0, I), per picture

    L = l1 mean|x - x^| + l2 mean (x - x^)^2 + kl mean KL(N(m, s^2) || N(0, 1)),
    KL = (m^2 + s^2 - 1 - ln s^2) / 2  per latent number.

All three are means, over pixels and over latent numbers. Latent-diffusion code sums both and weighs the KL by
1e-6; there one latent number in 48 pixels-times-channels counts, so its 1e-6 is 1e-6 / 48 times the ratio
here.
Source: Kingma & Welling 2014, arXiv 1312.6114; Rombach et al. 2022, arXiv 2112.10752.
"""

from __future__ import annotations

from typing import Protocol

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
        l1, l2, kl: weights, none negative, l1 and l2 not both zero.
    """

    def __init__(self, *, l1: float, l2: float, kl: float) -> None:
        super().__init__()
        if min(l1, l2, kl) < 0 or l1 + l2 == 0:
            raise ValueError(
                f"loss.l1, loss.l2, loss.kl must not be negative, nor l1 and l2 both 0: got {l1}, {l2}, {kl}"
            )
        self.l1, self.l2, self.kl = l1, l2, kl

    def forward(self, network: GaussianAutoencoder, images: Tensor, rng: RowRng) -> Losses:
        """Terms `reconstruction` and `kl`, weighted, (B,) each; images (B, 3, h, w) in [-1, 1]."""
        mean, log_variance = network.posterior(images)
        noise = rng.normal("posterior", *mean.shape[1:])
        error = network.reconstruct(mean + (0.5 * log_variance).exp() * noise).float() - images
        reconstruction = self.l1 * error.abs().flatten(1).mean(1) + self.l2 * error.square().flatten(1).mean(
            1
        )
        return Losses({"reconstruction": reconstruction, "kl": self.kl * kl_divergence(mean, log_variance)})


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, s^2) || N(0, 1)), mean over the latent numbers of each row, (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
