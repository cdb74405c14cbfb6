"""The networks of a method that learn beside its student, and weights that follow from gradients.

A method or a term assigns such a network as a `Player` to an attribute; training (training/turns.py) gives each
player its optimizer and lets a gradient reach the one player whose turn it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

OptimizerFactory = Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]
STUDENT = "student"
_TINY = 1e-4  # added to the gradient norm of the balanced term, as in the LDM code


class Player(nn.Module):
    """A network that learns beside the student: a discriminator, a critic.

    Args:
        network: what learns.
        optimizer: (name, parameter) pairs -> optimizer.
        schedule: (student steps done, total student steps) -> factor on the learning rate.
        clip: largest gradient norm; 0 leaves gradients alone.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: OptimizerFactory,
        schedule: Callable[[int, int], float],
        clip: float,
    ) -> None:
        super().__init__()
        if not clip >= 0:
            raise ValueError(f"the clip of a player must not be negative, got {clip}")
        self.network, self.optimizer, self.schedule, self.clip = network, optimizer, schedule, clip


@dataclass(frozen=True)
class Balance:
    """The weight of a term that keeps its gradient in proportion to that of the others.

    weight * min(|grad others| / (|grad term| + 1e-4), largest), both gradients at one layer.

    Attributes:
        layer: the parameter at which the gradients are compared.
        weight: the proportion that is wanted.
        largest: upper bound of the ratio.

    Source: Esser et al. 2021 (VQGAN), arXiv 2012.09841, eq. (7), which adds 1e-6; 1e-4 and the bound are those of
    the LDM code.
    """

    layer: nn.Parameter
    weight: float
    largest: float

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and 0 < self.largest < math.inf):
            raise ValueError(
                "the weight of a balanced term must not be negative and its largest ratio must be positive, "
                f"got {self.weight} and {self.largest}"
            )

    def __call__(self, others: Tensor, term: Tensor) -> Tensor:
        """The weight, a scalar without gradient, from the two gradients at the layer."""
        ratio = others.detach().norm() / (term.detach().norm() + _TINY)
        return self.weight * ratio.clamp(max=self.largest)
