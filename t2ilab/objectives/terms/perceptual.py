"""How different the images look that the student's estimate and its target decode to."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.latents.base import Autoencoder
from t2ilab.objectives.perceptual import PerceptualDistance
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput, TermWeight


class Perceptual(Term):
    """d(decode(x0^), decode(target)) with a perceptual distance d, (B,); neither image is cut to [-1, 1].

    The target is what the method wants x0^ to be: in distillation the estimate of a teacher or at a later time, else
    the clean latents. At high noise the mean of all images that fit is far from each of them, so this suits methods
    that imitate one trajectory, such as reflow, more than pre-training.

    Args:
        weight: w(step).
        distance: d.
    Source: Zhang et al. 2018, arXiv 1801.03924; with consistency models Song et al. 2023, arXiv 2303.01469, with
    rectified flow Lee et al. 2024, arXiv 2405.20320.
    """

    def __init__(self, weight: TermWeight, distance: PerceptualDistance) -> None:
        super().__init__(weight)
        self.distance = distance

    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        self.__dict__["autoencoder"] = roles.autoencoder
        if roles.autoencoder is not None:
            self.distance.load()

    def forward(self, given: TermInput) -> Tensor:
        autoencoder: Autoencoder = self.__dict__["autoencoder"]
        with torch.no_grad():
            wanted = autoencoder.decode(given.wanted.float(), clamp=False)
        made = autoencoder.decode(given.estimate.x0.float(), clamp=False)
        distance: Tensor = self.distance(made, wanted)
        return distance
