"""InstaFlow: one evaluation makes the image that the (rectified) teacher makes of the same noise.

    x0^ = student(eps, t = 1, c),    L = mean_CHW (x0^ - x0)^2 for the first part of the run, then
    L = d(decode(x0^), decode(x0)) + w mean_CHW (x0^ - x0)^2

with a perceptual distance d of decoded images, neither of them cut to [-1, 1]: equal latents are no distance apart.
The mean squared error alone blurs, the distance alone leaves patterns unless the error came first. Only a teacher
with nearly straight trajectories is copied sharply: reflow it before.
Source: Liu et al. 2023, arXiv 2309.06380.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from t2ilab.core.path import Path
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.latents.base import Autoencoder
from t2ilab.objectives.distill.base import Distillation, Drawing
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.perceptual import PerceptualDistance
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput


class InstaFlow(Distillation):
    """The loss above.

    Args:
        perceptual: d; None for the error of latents alone.
        warmup: share of the run before the distance counts, in [0, 1].
        weight: w, of the error of latents beside the distance.
        total: steps of the run.
        terms: further terms, by name.
    """

    name = "instaflow"
    taught = False
    from_pairs = True

    def __init__(
        self,
        *,
        perceptual: PerceptualDistance | None,
        warmup: float,
        weight: float,
        total: int,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(terms=terms)
        if not (0 <= warmup <= 1 and weight >= 0):
            raise ValueError(
                f"loss.warmup must be in [0, 1] and loss.weight not negative, got {warmup}, {weight}"
            )
        self.perceptual, self.warmup, self.weight, self.total = perceptual, warmup, weight, total

    def drawing(self, path: Path) -> Drawing:
        return Drawing("one_step", (1.0,))

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        super().bind(student, roles)
        self.__dict__["autoencoder"] = roles.autoencoder
        if self.perceptual is not None and roles.autoencoder is not None:
            self.perceptual.load()

    def looks(self, step: int) -> bool:
        """Whether the distance counts in this step."""
        return self.perceptual is not None and step >= self.warmup * self.total

    def losses(self, batch: Batch, eps: Tensor, scales: Tensor | None, rng: RowRng) -> Losses:
        t = torch.ones(len(eps), device=eps.device)
        estimate = self.answer(eps * self.path.prior_std, t, batch.condition, rng)
        found = estimate.x0
        error = estimate.mean((found - batch.x0).square()).float()
        loss = error
        if self.looks(rng.step):
            autoencoder: Autoencoder = self.__dict__["autoencoder"]
            assert self.perceptual is not None
            with torch.no_grad():
                wanted = autoencoder.decode(batch.x0.float(), clamp=False)
            looks = self.perceptual(autoencoder.decode(found.float(), clamp=False), wanted)
            loss = looks + self.weight * error
        losses = self.with_terms(loss, TermInput(batch, eps, t, estimate, rng))
        return Losses(losses.terms, None, losses.weights, {"latent_error": error.detach()}, losses.kept)
