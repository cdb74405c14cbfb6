"""Methods with several networks that learn: who they are, and whose turn it is.

A method assigns its other networks as `Player`s to attributes of its own; the stage (stages/turn.py) gives each
player its optimizer and lets a gradient reach the one player whose turn it is. Parameters of the method that
belong to no player (a learned variance, a projector) learn with the student.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


class Turns(nn.Module):
    """What a stage with several players asks of a method."""

    def rivals(self) -> dict[str, Player]:
        """The players beside the student, by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Player)}

    @property
    def players(self) -> tuple[str, ...]:
        """Names of all players, the student first."""
        return (STUDENT, *self.rivals())

    def beside_student(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the method that belong to no player; they learn with the student."""
        foreign = {id(p) for player in self.rivals().values() for p in player.parameters()}
        return [(name, p) for name, p in self.named_parameters() if id(p) not in foreign]

    def turns(self, step: int) -> tuple[str, ...]:
        """Who learns from global batch `step`, in this order; a player may come several times, the student once.

        A batch without a student's turn is no step of the student: it moves no schedule, EMA or checkpoint.
        """
        return self.players

    def balances(self, player: str) -> Mapping[str, Balance]:
        """Terms of this player's loss that are weighed by their gradients; all others are added as they are."""
        return {}
