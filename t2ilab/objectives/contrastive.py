"""Contrastive training of a picture and a text encoder.

With unit vectors f_i (pictures), g_j (texts) and a learned scale e^tau, logits s_ij = e^tau f_i . g_j and

    L_i = -1/2 [ln softmax_j(s_ij)_i + ln softmax_j(s_ji)_i].

Equal texts in one batch are all right answers: the target is uniform over them, not one-hot.
Source: Radford et al. 2021, arXiv 2103.00020; the shared target as in UniCL (Yang et al. 2022, arXiv
2204.03610).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.objectives.base import Losses


class Contrastive(nn.Module):
    """The loss above. Args: largest: upper bound of e^tau (100 in CLIP)."""

    def __init__(self, *, largest: float) -> None:
        super().__init__()
        if largest <= 0:
            raise ValueError(f"loss.largest must be positive, got {largest}")
        self.largest = largest

    def forward(self, pictures: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Losses:
        """Loss of each pair, (B,).

        Args:
            pictures, texts: (B, D), of any length.
            scale: e^tau, a scalar.
            same: same[i, j] says that text j is right for picture i too, (B, B) bool, true on the diagonal.
        """
        logits = (
            scale.clamp(max=self.largest)
            * F.normalize(pictures.float(), dim=1)
            @ F.normalize(texts.float(), dim=1).T
        )
        target = same.float() / same.float().sum(1, keepdim=True)
        back = same.T.float() / same.T.float().sum(1, keepdim=True)
        forth = -(target * torch.log_softmax(logits, 1)).sum(1)
        return Losses({"contrastive": 0.5 * (forth - (back * torch.log_softmax(logits.T, 1)).sum(1))})
