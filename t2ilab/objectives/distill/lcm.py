"""Latent consistency: consistency distillation along the guided trajectory, on a coarse grid, scale as an input.

The loss is that of `consistency.py` with the mean over all numbers of

    h(d) = sqrt(d^2 + c^2) - c                                                                              (1)

in place of the distance of whole images.
Source: Luo et al. 2023, arXiv 2310.04378, whose w is the standard scale minus 1; c = 0.001 as in diffusers' script.
"""

from __future__ import annotations

from torch import Tensor

from t2ilab.objectives.distill.consistency import Consistency


class LCM(Consistency):
    """Consistency distillation with eq. (1); arguments as there."""

    name = "lcm"

    def distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        c = 1e-3 if self.huber is None else self.huber
        square = (found - wanted).square()
        return (square / ((square + c**2 + 1e-20).sqrt() + c)).flatten(1).mean(1)
