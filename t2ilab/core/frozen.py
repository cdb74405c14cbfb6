"""A holder for networks that do not learn: teacher, reference, reward, autoencoder, text encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Keeps a network out of parameters, state_dict, optimizers, EMA and copies; `.to()` still moves it.

    The network is in evaluation mode and its parameters want no gradient; gradients with respect to its
    inputs pass through. A deep copy holds the same network, not a second one.

    Args:
        module: the network; read it as `.module`, or call the holder.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module.eval().requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Frozen:
        """Stays without gradients."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        super()._apply(fn, recurse)
        self.module._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return Frozen(self.module)
