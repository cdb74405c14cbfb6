"""Training of an autoencoder whose images shall also look right: perceptual, adversarial and alignment terms.

Beside the terms of reconstruction.py, with x^ the reconstruction of x, D a discriminator and s a learned log-scale,

    L_nll     = (l1 mean|x - x^| + l2 mean (x - x^)^2 + w_p d(x^, x)) exp(-s) + s       (s = 0 unless it is learned)
    L_student = L_nll + kl KL + lambda f(step) L_G(x^)  [+ lambda' L_align]
    L_D       = f(step) L_D(x, x^)

with d of perceptual.py, L_G and L_D of hinge.py, L_align of latent_alignment.py, f(step) = 0 before `start_step`
and 1 from then on. lambda keeps the adversarial gradient at the decoder's last layer at `adversarial_weight` times
that of L_nll (`turns.Balance`); lambda' does the same at the encoder's last layer, where the gradient of the KL
counts with that of L_nll.

Student and discriminator learn from the same x^, each one's gradient taken before either of them moves on.

The LDM code sums L_nll over pixels (and so does s), here it is a mean; lambda makes up for it.
Source: Rombach et al. 2022, arXiv 2112.10752, appendix G; Esser et al. 2021, arXiv 2012.09841.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING
from t2ilab.objectives.hinge import discriminator_hinge, generator_hinge
from t2ilab.objectives.latent_alignment import LatentAlignment
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.perceptual import PerceptualDistance
from t2ilab.objectives.reconstruction import GaussianAutoencoder, Reconstruction, kl_divergence
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import STUDENT, Balance, Player

DISCRIMINATOR = "discriminator"


class LayeredAutoencoder(GaussianAutoencoder, Protocol):
    """What the objective asks of a network beyond what Reconstruction does."""

    channels: int

    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last layer."""
        ...

    def last_encoder_layer(self) -> nn.Parameter:
        """The weight of the encoder's last layer."""
        ...


class AdversarialReconstruction(Reconstruction):
    """The losses above.

    Args:
        l1, l2, kl, noise: as in Reconstruction.
        perceptual: d; None to do without.
        perceptual_weight: w_p.
        learned_variance: whether s is learned; else it is 0.
        discriminator: D and how it learns; None for a student that plays alone.
        adversarial_weight: of L_G, see above.
        adaptive: false makes lambda the adversarial_weight itself.
        largest_ratio: upper bound of the ratio of the two gradients.
        start_step: the first step in which the discriminator learns and is felt.
        latent_alignment: L_align; None to do without.
    """

    def __init__(
        self,
        *,
        l1: float,
        l2: float,
        kl: float,
        noise: float,
        perceptual: PerceptualDistance | None,
        perceptual_weight: float,
        learned_variance: bool,
        discriminator: Player | None,
        adversarial_weight: float,
        adaptive: bool,
        largest_ratio: float,
        start_step: int,
        latent_alignment: LatentAlignment | None = None,
    ) -> None:
        super().__init__(l1=l1, l2=l2, kl=kl, noise=noise)
        if min(perceptual_weight, adversarial_weight, start_step) < 0 or not largest_ratio > 0:
            raise ValueError(
                "loss.perceptual_weight, loss.adversarial_weight and loss.start_step must not be negative and "
                f"loss.largest_ratio must be positive, got {perceptual_weight}, {adversarial_weight}, "
                f"{start_step} and {largest_ratio}"
            )
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.log_variance = nn.Parameter(torch.zeros(())) if learned_variance else None
        self.discriminator, self.adversarial_weight = discriminator, adversarial_weight
        self.adaptive, self.largest_ratio, self.start_step = adaptive, largest_ratio, start_step
        self.latent_alignment = latent_alignment

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Reads the networks that judge images, and notes the layers at which gradients are compared.

        Raises:
            ValueError: the encoder to be aligned does not learn.
        """
        super().bind(student, roles)
        network: LayeredAutoencoder = self.student
        self._balances: dict[str, Balance] = {}
        if self.perceptual is not None:
            self.perceptual.load()
        if self.discriminator is not None and self.adaptive:
            layer = network.last_layer()
            self._balances["adversarial"] = Balance(layer, self.adversarial_weight, self.largest_ratio)
        if self.latent_alignment is not None:
            layer, aligned = network.last_encoder_layer(), self.latent_alignment
            if not layer.requires_grad:
                raise ValueError("loss.latent_alignment moves the encoder: set stage.freeze_encoder=false")
            aligned.load(network.channels)
            self._balances["alignment"] = Balance(layer, aligned.weight, aligned.largest_ratio)

    def balances(self, player: str) -> Mapping[str, Balance]:
        return self._balances if player == STUDENT else {}

    def playing(self, step: int) -> bool:
        """f(step): whether there is a discriminator and its time has come."""
        return self.discriminator is not None and step >= self.start_step

    def turns(self, step: int) -> tuple[str, ...]:
        return (STUDENT, DISCRIMINATOR) if self.playing(step) else (STUDENT,)

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """The player's loss for images (B, 3, h, w) in [-1, 1]; `kept` is what the student's turn left."""
        images = batch.x0
        if player == DISCRIMINATOR:
            return self.of_discriminator(images, kept["rebuilt"])
        mean, log_variance, rebuilt = self.rebuilt(images, rng)
        terms = self.likelihood(rebuilt, images) | {"kl": self.kl * kl_divergence(mean, log_variance)}
        if self.latent_alignment is not None:
            terms["alignment"] = self.latent_alignment(mean, images)
        if self.playing(rng.step):
            assert self.discriminator is not None
            weight = 1.0 if self.adaptive else self.adversarial_weight
            terms["adversarial"] = weight * generator_hinge(self.discriminator.network(rebuilt))
        notes = {} if self.log_variance is None else {"log_variance": self.log_variance.detach().view(1)}
        return Losses(terms, notes=notes, kept={"rebuilt": rebuilt.detach()})

    def likelihood(self, rebuilt: Tensor, images: Tensor) -> dict[str, Tensor]:
        """L_nll as its terms `reconstruction` (with s) and `perceptual`, (B,) each."""
        terms = {"reconstruction": self.pixel_error(rebuilt, images)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(rebuilt, images)
        if self.log_variance is not None:
            terms = {name: value * (-self.log_variance).exp() for name, value in terms.items()}
            terms["reconstruction"] = terms["reconstruction"] + self.log_variance
        return terms

    def of_discriminator(self, images: Tensor, rebuilt: Tensor) -> Losses:
        """L_D, and the mean logits of every image as notes."""
        assert self.discriminator is not None
        real, fake = self.discriminator.network(torch.cat([images, rebuilt])).float().chunk(2)
        notes = {"logits_real": real, "logits_fake": fake}
        return Losses(
            {"hinge": discriminator_hinge(real, fake)},
            notes={name: value.detach().flatten(1).mean(1) for name, value in notes.items()},
        )
