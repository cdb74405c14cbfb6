"""The DPO family: functions of the four errors of a pair, see `base.py`, whose eq. (1) defines change and margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.core.timestep import TimestepSampler
from t2ilab.objectives.preference.base import Errors, Preference, Space


class DPO(Preference):
    """-ln sigmoid(beta / 2 margin): log 2 at the start, where its gradients by the errors are +-beta / 4.

    Source: Wallace et al. 2023, arXiv 2311.12908; the half is that of the official code.
    """

    name = "dpo"

    def loss(self, errors: Errors, beta: float) -> Tensor:
        return -F.logsigmoid(0.5 * beta * errors.margin)


class IPO(Preference):
    """(margin - 1 / (2 beta))^2: the margin is led to a finite value, also where all labels agree.

    Source: Azar et al. 2023, arXiv 2310.12036; on mean squared errors as in diffusers' script.
    """

    name = "ipo"

    def loss(self, errors: Errors, beta: float) -> Tensor:
        return (errors.margin - 0.5 / beta).square()


class Hinge(Preference):
    """max(0, 1 - beta margin): no gradient once the margin is 1 / beta.

    Source: Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425.
    """

    name = "hinge"

    def loss(self, errors: Errors, beta: float) -> Tensor:
        return (1 - beta * errors.margin).clamp(min=0)


class KTO(Preference):
    """Each image for itself: w (1 - sigmoid(y beta (g - KL))), y = 1 for a winner and -1 for a loser.

    g = -change, and KL is the mean of g over the whole batch, at least 0, without gradient: the batch must not be
    split. The loss of a pair is the mean of its two.

    Args:
        winner_weight, loser_weight: w.
    Source: Li et al. 2024 (Diffusion-KTO), arXiv 2404.04465, and its official code.
    """

    name = "kto"

    def __init__(
        self,
        timestep: TimestepSampler,
        *,
        space: Space,
        beta: float,
        numbers: int | None,
        winner_weight: float,
        loser_weight: float,
    ) -> None:
        super().__init__(timestep, space=space, beta=beta, numbers=numbers)
        if min(winner_weight, loser_weight) <= 0:
            raise ValueError(
                "loss.winner_weight and loss.loser_weight must be positive, got "
                f"{winner_weight} and {loser_weight}"
            )
        self.weights = (winner_weight, loser_weight)

    def loss(self, errors: Errors, beta: float) -> Tensor:
        gain = -errors.changes
        gain = gain - gain.detach().mean().clamp(min=0)
        sign = gain.new_tensor([1.0, -1.0])
        return (gain.new_tensor(self.weights) * (1 - torch.sigmoid(sign * beta * gain))).mean(1)


class MaPO(Preference):
    """e_w - weight ln sigmoid(T (psi(e_w) - psi(e_l))),    psi(e) = c e / (exp(c e) - 1): without a reference.

    psi(0) = 1 and psi falls, so that the odds stay bounded; beta is the weight, for every size of latents.

    Args:
        scale: T.
        shape: c.
    Source: Hong et al. 2024, arXiv 2406.06424, and its official code (T = 1000, c = 0.5).
    """

    name = "mapo"
    compares = False

    def __init__(
        self, timestep: TimestepSampler, *, space: Space, beta: float, scale: float, shape: float
    ) -> None:
        super().__init__(timestep, space=space, beta=beta, numbers=None)
        if min(scale, shape) <= 0:
            raise ValueError(f"loss.scale and loss.shape must be positive, got {scale} and {shape}")
        self.scale, self.shape = scale, shape

    def psi(self, error: Tensor) -> Tensor:
        """Shaped like the errors; 1 at 0, by its series below 1e-4, where expm1 would divide 0 by 0."""
        z = self.shape * error
        safe = z.clamp(min=1e-4)
        return torch.where(z < 1e-4, 1 - z / 2 + z.square() / 12, safe / torch.expm1(safe))

    def loss(self, errors: Errors, beta: float) -> Tensor:
        winner, loser = errors.student.unbind(1)
        return winner - beta * F.logsigmoid(self.scale * (self.psi(winner) - self.psi(loser)))


class SFTWinners(Preference):
    """e_w: supervised fine-tuning on the winners, the control for all others."""

    name = "sft_winners"
    compares = False

    def __init__(self, timestep: TimestepSampler, *, space: Space) -> None:
        super().__init__(timestep, space=space, beta=1.0, numbers=None)

    def loss(self, errors: Errors, beta: float) -> Tensor:
        return errors.student[:, 0]
