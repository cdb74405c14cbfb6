"""The inverse of a function that has no formula for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_HALVINGS = 60  # of [0, 1]: to 2^-60, beyond float64's last digit for all but the smallest results


def inverse(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The x in [0, 1] at which an increasing function has these values, by bisection.

    Args:
        function: elementwise and increasing on [0, 1].
        value: float64, any shape.
    Returns:
        float64, shaped like value; 0 and 1 where the function does not get there.
    """
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = function(middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
