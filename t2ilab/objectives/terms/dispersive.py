"""Dispersive loss: hidden states of different images are pushed apart, without any encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.models.layers import full_precision
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.terms.base import Term, TermInput, TermWeight, tapped


class Dispersive(Term):
    """log mean_ij exp(-||z_i - z_j||^2 / (N D tau)), z the flattened hidden state (N D); the same for each row.

    i and j run over the whole micro-batch, i = j included, so that the loss lies in [-ln B, 0]: 0 where all are
    equal, -ln B where all are far apart. It depends on the rows that one process holds, and so, unlike every other
    loss here, on the number of processes and micro-batches.

    Paper and released PyTorch code differ: the paper (JAX) has weight 0.5, tau 0.5 and reads the student at a
    quarter of the depth; the code has weight 0.25, tau 1 (it leaves tau out) and reads behind the last block. The
    authors report much the same FID for both.

    Args:
        weight: 0.5 in the paper, 0.25 in the released code.
        tap: where the student is read; None for an early place that the model names.
        tau: temperature, 0.5 in the paper, 1 in the released code.
    Source: Wang and He 2025, arXiv 2506.09027, InfoNCE variant with squared L2 distance.
    """

    def __init__(self, weight: TermWeight, *, tap: str | None, tau: float = 0.5) -> None:
        super().__init__(weight)
        if not tau > 0:
            raise ValueError(f"terms.dispersive.tau must be positive, got {tau}")
        self.tap, self.tau = tap, tau

    def bind(self, student: Denoiser, roles: Roles = NOBODY) -> None:
        tap, _ = tapped(student, self.tap, student.depths[0])
        if student.routed(tap):
            raise ValueError(
                f"terms.dispersive.tap={tap} holds other tokens of each image, which model.routing draws: choose "
                "a block outside of the routed ones, such as block1"
            )
        self.taps = (tap,)

    def forward(self, given: TermInput) -> Tensor:
        hidden = given.estimate.taps[self.taps[0]]
        with full_precision(hidden):
            z = hidden.float().flatten(1)
            norms = z.square().sum(1)
            distances = (norms[:, None] + norms[None] - 2 * z @ z.T).clamp(min=0) / z.shape[1]
            closeness = torch.logsumexp(-distances.flatten() / self.tau, 0) - 2 * math.log(len(z))
        return closeness.expand(len(z))
