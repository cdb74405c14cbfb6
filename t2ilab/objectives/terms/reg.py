"""REG's part of the loss: the vector of the image is denoised along with it."""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.carried import carried
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.prediction import Score
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.scale import check_scale
from t2ilab.objectives.terms.base import Term, TermInput, TermWeight


class REG(Term):
    """(1 / d) ||out - target||^2 over the d numbers that the latents carry beside the image.

    Target and output are those of the student's own prediction, the velocity in REG, or eps for a score network.
    The main loss counts the image alone (`Estimate.visible`), so both can be weighed. Official code puts the
    vector in front of REPA's targets, too; `terms=[repa, reg]` aligns the image tokens only.

    Args:
        weight: 0.03 in REG.
    Source: Wu et al. 2025, arXiv 2507.01467.
    """

    def __init__(self, weight: TermWeight) -> None:
        if not weight.value > 0 or weight.stop < 1:
            raise ValueError(
                "terms.reg.weight must be positive to the end, for the image is drawn with the vector: got "
                f"value={weight.value} and stop={weight.stop}"
            )
        super().__init__(weight)

    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        dim, self.channels = student.carries
        if not dim:
            raise ValueError(
                "terms.reg needs latents that carry a vector and a model that reads it: choose "
                "autoencoder=scenes_reg, a DiT, and model.class_dim and model.class_channels as in recipe=reg"
            )
        if not isinstance(student.prediction, Score):  # an error of which counts as one of eps
            check_scale(student.prediction, student.path, low=0.001, high=0.999, who="terms=[reg]")
        self.dim = dim

    def forward(self, given: TermInput) -> Tensor:
        error = given.estimate.output_error(given.batch.x0, given.eps)[:, -self.channels :]
        return carried(error, self.dim).square().mean(1)
