"""Textual inversion: a subject becomes a word, whose vectors are all that learns.

    v* = argmin_v E |F(x_t, t, c_v) - target|^2

with c_v the condition of a prompt in which the new word has the vectors v; network and text encoder stay as they
are. The loss is that of diffusion. Source: Gal et al. 2022, arXiv 2208.01618, equation 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from t2ilab.core.prediction import Prediction
from t2ilab.core.timestep import TimestepSampler
from t2ilab.core.weighting import Weighting
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.terms.base import Term


class TextualInversion(Diffusion):
    """The formula above; `stage=personalize` makes the word and freezes the rest.

    Args:
        vectors: of the word; several are written one behind the other.
        init_word: known word or words that they begin as; None for the class.
        timestep, weighting, space, max_weight, terms: as in Diffusion.
    """

    name = "textual_inversion"

    def __init__(
        self,
        timestep: TimestepSampler,
        weighting: Weighting | None = None,
        *,
        vectors: int,
        init_word: str | None = None,
        space: Prediction | None = None,
        max_weight: float = 400.0,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__(timestep, weighting, space=space, max_weight=max_weight, terms=terms)
        if vectors < 1:
            raise ValueError(f"loss.vectors must be at least 1, got {vectors}")
        self.vectors, self.init_word = vectors, init_word
