"""Learning a reward from comparisons.

A student gives scores s (B, K) of images x0 (B, K, 3, h, w) in [-1, 1] for prompts of token ids `ids` (B, L); who
compared gave `ranks` (B, K), 0 for the best, equal for a tie, negative where a shorter comparison has no image.

    Bradley-Terry    mean over pairs of  -p ln sigmoid(s_i - s_j) - (1 - p) ln sigmoid(s_j - s_i)               (1)
    Plackett-Luce    -sum_k [s_(k) - ln sum_{j >= k} exp s_(j)]  in the order of the ranks                     (2)

p is 1 if i was preferred, 0 if j was and 1/2 for a tie, whose loss of ln 2 at equal scores is taken off: that is its
least. (2) of two images is (1). Both leave open what is added to all scores of a prompt.
Source: Kirstain et al. 2023 (PickScore), arXiv 2305.01569; Xu et al. 2023 (ImageReward), arXiv 2304.05977.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Objective
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import STUDENT


class Ranking(Objective):
    """What both losses share. A comparison counts once, however many images it has.

    Attributes:
        name: of the loss.
    """

    trains = "reward"
    name: str

    def __init__(self) -> None:
        super().__init__()

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Raises ValueError for a student whose spread this loss would leave as it is."""
        super().bind(student, roles)
        if getattr(student, "uncertain", False) and type(self).forward is Ranking.forward:
            raise ValueError(
                f"loss={self.name} teaches no spread: choose loss=gaussian_utility, or model.uncertain=false"
            )

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """The loss of every comparison, and the share of its decided pairs that the scores order right."""
        scores = self.student((batch.x0 + 1) / 2, batch.extras["ids"]).float()
        ranks = batch.extras["ranks"]
        return Losses({self.name: self.loss(scores, ranks)}, notes=notes_of(scores.detach(), ranks))

    @abstractmethod
    def loss(self, scores: Tensor, ranks: Tensor) -> Tensor:
        """(B,) of scores and ranks (B, K)."""


class BradleyTerry(Ranking):
    """Eq. (1), each pair of a comparison as much as any other of it."""

    name = "bradley_terry"

    def loss(self, scores: Tensor, ranks: Tensor) -> Tensor:
        difference = scores[:, :, None] - scores[:, None]
        wins, ties, pairs = (part.to(scores.dtype) for part in decisions(ranks))
        # every pair stands there twice: a win at its place, a tie with one half at both
        tied = -F.logsigmoid(difference) - math.log(2)
        each = -wins * F.logsigmoid(difference) + 0.5 * ties * tied
        return each.sum((1, 2)) / (0.5 * pairs.sum((1, 2))).clamp(min=1)


class PlackettLuce(Ranking):
    """Eq. (2). Equal ranks count as the mean of their order and its reverse: for two, of all their orders."""

    name = "plackett_luce"

    def loss(self, scores: Tensor, ranks: Tensor) -> Tensor:
        place = torch.arange(scores.shape[1], device=scores.device)
        return 0.5 * (self._in_order(scores, ranks, place) + self._in_order(scores, ranks, -place))

    def _in_order(self, scores: Tensor, ranks: Tensor, place: Tensor) -> Tensor:
        """The loss with equal ranks in the order of `place` (K,); images that are not there come first, in no sum."""
        order = (2 * scores.shape[1] * ranks + place).argsort(dim=1)
        present = (ranks >= 0).gather(1, order)
        ordered = scores.gather(1, order)
        rest = ordered.flip(1).logcumsumexp(1).flip(1)
        return (rest - ordered).masked_fill(~present, 0.0).sum(1)


def notes_of(scores: Tensor, ranks: Tensor) -> dict[str, Tensor]:
    """The share of decided pairs that scores (B, K) order right, 1/2 where none is, and their std, (B,) each."""
    right, decided = ordered_right(scores, ranks)
    accuracy = right.sum((1, 2)) / decided.sum((1, 2)).clamp(min=1)
    present = (ranks >= 0).to(scores.dtype)
    number = present.sum(1)
    mean = (present * scores).sum(1) / number
    variance = (present * (scores - mean[:, None]).square()).sum(1) / (number - 1).clamp(min=1)
    return {"accuracy": torch.where(decided.any(2).any(1), accuracy, 0.5), "spread": variance.sqrt()}


def decisions(ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every ordered pair (i, j) of images, (B, K, K) bool: i was preferred, it was a tie, both are there."""
    present = ranks >= 0
    apart = ~torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    pairs = present[:, :, None] & present[:, None] & apart
    return pairs & (ranks[:, :, None] < ranks[:, None]), pairs & (ranks[:, :, None] == ranks[:, None]), pairs


def ordered_right(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """How right scores are on every decided pair, 1, 0, or 1/2 for equal scores, and which they are, (B, K, K)."""
    wins, _, _ = decisions(ranks)
    difference = scores[:, :, None] - scores[:, None]
    return wins * (0.5 + 0.5 * difference.sign()), wins
