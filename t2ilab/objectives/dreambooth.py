"""DreamBooth's loss: the images of a subject, and those of its class that keep the rest of the model.

    L = mean over the subject's rows of l + lambda mean over the class's rows of l

with l the error of the network's own prediction: two means, not one over all rows, which at lambda = 1 is L / 2.
Times and noise are drawn for every row of both. Source: Ruiz et al. 2022, arXiv 2208.12242, equation 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from t2ilab.core.prediction import Prediction
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.types import Batch
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.base import NOTHING
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.terms.base import Term
from t2ilab.objectives.turns import STUDENT

PRIOR = "prior"  # of a batch's extras: which rows are of the class, (B,) bool
SHARE = "share"  # of a batch's extras: the share of a step's rows that are of the same kind, (B,)


class DreamBooth(Diffusion):
    """The formula above.

    A batch that says nothing of a class is all of the subject.

    Args:
        prior_weight: lambda; 0 leaves the class out.
        timestep, weighting, space, max_weight, terms: as in Diffusion.
    """

    name = "dreambooth"

    def __init__(
        self,
        timestep: TimestepSampler,
        weighting: Weighting | None = None,
        *,
        prior_weight: float,
        space: Prediction | None = None,
        max_weight: float = 400.0,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(timestep, weighting, space=space, max_weight=max_weight, terms=terms)
        if not prior_weight >= 0:
            raise ValueError(f"loss.prior_weight must be 0 or more, got {prior_weight}")
        self.prior_weight = prior_weight

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        losses = super().forward(batch, rng, player, kept)
        if player != STUDENT or PRIOR not in batch.extras:
            return losses
        prior, share = batch.extras[PRIOR], batch.extras[SHARE]
        factors = torch.where(prior, self.prior_weight, 1.0) / share
        main = losses.terms[self.name].detach()
        return replace(
            losses,
            terms={name: factors * term for name, term in losses.terms.items()},
            notes={**losses.notes, "subject": main[~prior], "class": main[prior]},
        )
