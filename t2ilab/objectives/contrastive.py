"""Contrastive training of an image and a text encoder.

With unit vectors f_i (images), g_j (texts) and a learned scale e^tau, logits s_ij = e^tau f_i . g_j and

    L_i = -1/2 [ln softmax_j(s_ij)_i + ln softmax_j(s_ji)_i].

Equal texts in one batch are all right answers: the target is uniform over them, not one-hot.
Source: Radford et al. 2021, arXiv 2103.00020; the shared target as in UniCL (Yang et al. 2022, arXiv
2204.03610).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Objective
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.reading import Answers
from t2ilab.objectives.turns import STUDENT


class Contrastive(Objective):
    """The loss above, and beside it that of questions about the texts (`reading.py`).

    The student holds the CLIP as `towers` and, if it is asked, a `Reading` as `questions`. A batch has images
    (B, n, 3, h, w) in [-1, 1] as x0, and as extras the token ids `ids` of their texts, (B, n, L), and the right
    answers `things`, `canonical` and `whole`. All pairs are compared with each other; the loss of a row is the mean
    of its n.

    Args:
        largest: upper bound of e^tau (100 in CLIP).
        reading: weight of the questions; 0 for none.
    """

    trains = "encoder"

    def __init__(self, *, largest: float, reading: float | None = None) -> None:
        super().__init__()
        if largest <= 0:
            raise ValueError(f"loss.largest must be positive, got {largest}")
        self.largest, self.reading = largest, reading or 0.0

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """Terms `contrastive` and `reading`, weighted, (B,) each."""
        towers, ids = self.student["towers"], batch.extras["ids"].flatten(0, 1)
        mask = ids != towers.tokenizer.pad_id
        images = towers.encode_image(batch.x0.flatten(0, 1)).pooled
        texts = towers.encode_text(ids, mask)
        same = (ids[:, None] == ids[None]).all(-1)
        terms = {"contrastive": self.compared(images, texts.pooled, towers.log_temperature.exp(), same)}
        if self.reading:
            right = Answers(*(batch.extras[name].flatten(0, 1) for name in ("things", "canonical", "whole")))
            terms["reading"] = self.reading * self.student["questions"](texts.told, texts.pooled, right)
        rows = len(batch.x0)
        return Losses({name: value.unflatten(0, (rows, -1)).mean(1) for name, value in terms.items()})

    def compared(self, images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
        """Loss of each pair, (B,).

        Args:
            images, texts: (B, D), of any length.
            scale: e^tau, a scalar.
            same: same[i, j] says that text j is right for image i too, (B, B) bool, true on the diagonal.
        """
        logits = (
            scale.clamp(max=self.largest)
            * F.normalize(images.float(), dim=1)
            @ F.normalize(texts.float(), dim=1).T
        )
        target = same.float() / same.float().sum(1, keepdim=True)
        back = same.T.float() / same.T.float().sum(1, keepdim=True)
        forth = -(target * torch.log_softmax(logits, 1)).sum(1)
        return 0.5 * (forth - (back * torch.log_softmax(logits.T, 1)).sum(1))
