"""Learning a reward that says how sure it is: the utility of an image is Gaussian, u ~ N(m, s^2).

Of two images d = u_i - u_j ~ N(m_i - m_j, s_i^2 + s_j^2), and i was preferred with the loss

    probit      -ln Phi((m_i - m_j) / (s_i^2 + s_j^2)^(1/2)),  the log loss of P(d > 0)                           (1)
    logistic    E_d[-ln sigmoid(d)],  Bradley and Terry's loss of utilities that were drawn                       (2)

(2) is at equal means ln 2 = 0.693 without a spread, and 0.806, 1.068, 1.750 with one of 1, 2, 4: a spread costs
something unless labels contradict each other. (1) at equal means is ln 2 whatever the spread, which grows where the
means are wrong and falls where they are right. A tie is half a win of each.
Sources: Thurstone 1927, A law of comparative judgment; Ma et al. 2025 (HPS v3), arXiv 2508.03789, whose code draws
1,000 samples where the expectation is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.ranking import Ranking, decisions, notes_of
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import STUDENT

Link = Literal["probit", "logistic"]
POINTS = 32  # of the quadrature: four digits of eq. (2) up to a spread of 4


class GaussianUtility(Ranking):
    """Eq. (1) or (2), each pair of a comparison as much as any other of it.

    Args:
        link: `probit` or `logistic`.
    """

    name = "gaussian_utility"

    def __init__(self, *, link: Link) -> None:
        super().__init__()
        if link not in get_args(Link):
            raise ValueError(f"loss.link must be one of {', '.join(get_args(Link))}, got {link}")
        self.link = link

    def bind(self, student: nn.Module, roles: Roles = NOBODY) -> None:
        """Raises ValueError for a student that says no spread."""
        super().bind(student, roles)
        if not getattr(student, "uncertain", False):
            raise ValueError("loss=gaussian_utility learns how sure the scores are: set model.uncertain=true")

    def forward(
        self, batch: Batch, rng: RowRng, player: str = STUDENT, kept: Mapping[str, Tensor] = NOTHING
    ) -> Losses:
        """The loss of every comparison; notes as of `Ranking`, and the mean spread."""
        mean, spread = self.student.gaussian((batch.x0 + 1) / 2, batch.extras["ids"])
        ranks = batch.extras["ranks"]
        present = ranks >= 0
        uncertainty = (present * spread.detach()).sum(1) / present.sum(1)
        notes = notes_of(mean.detach(), ranks) | {"uncertainty": uncertainty}
        return Losses({self.name: self.pairs(mean, spread, ranks)}, notes=notes)

    def loss(self, scores: Tensor, ranks: Tensor) -> Tensor:
        """Of scores without a spread."""
        return self.pairs(scores, torch.zeros_like(scores), ranks)

    def pairs(self, mean: Tensor, spread: Tensor, ranks: Tensor) -> Tensor:
        """(B,) of means, stds and ranks (B, K)."""
        d = mean[:, :, None] - mean[:, None]
        total = (spread[:, :, None].square() + spread[:, None].square()).clamp(min=1e-12).sqrt()
        each = log_loss(d, total, self.link)
        wins, ties, pairs = (part.to(mean.dtype) for part in decisions(ranks))
        summed = wins * each + 0.5 * ties * (each - math.log(2))
        return summed.sum((1, 2)) / (0.5 * pairs.sum((1, 2))).clamp(min=1)


def log_loss(d: Tensor, spread: Tensor, link: Link) -> Tensor:
    """Eq. (1) or (2) of mean differences d and their stds, both of one shape, float32."""
    if link == "probit":
        return -torch.special.log_ndtr(d / spread)
    points, weights = (part.to(d) for part in quadrature())
    return (weights * -F.logsigmoid(d[..., None] + spread[..., None] * points)).sum(-1)


def decided_log_loss(d: Tensor, spread: Tensor, link: Link) -> Tensor:
    """-ln of the probability that d is a win: eq. (1), or -ln E[sigmoid(d)], which lies below eq. (2)."""
    if link == "probit":
        return log_loss(d, spread, link)
    points, weights = (part.to(d) for part in quadrature())
    return -torch.logsumexp(weights.log() + F.logsigmoid(d[..., None] + spread[..., None] * points), -1)


@cache
def quadrature(points: int = POINTS) -> tuple[Tensor, Tensor]:
    """Points and weights (points,) whose weighted sum is the mean over a standard normal distribution.

    Golub and Welsch: eigenvalues, and squares of the first components of eigenvectors, of the Jacobi matrix of the
    Hermite polynomials, which has the roots of 1, 2, ... beside its diagonal.
    """
    beside = torch.arange(1, points, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return values, vectors[0].square()
