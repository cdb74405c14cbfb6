"""Tables that a formula looks things up in."""

from __future__ import annotations

import torch
from torch import Tensor


class Tables:
    """Constant tensors, copied to each device once: a copy at every step would make a GPU wait for the CPU.

    Args:
        first, others: on one device.
    """

    def __init__(self, first: Tensor, *others: Tensor) -> None:
        self._copies = {first.device: (first, *others)}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """All of them, on a device."""
        if device not in self._copies:
            own = next(iter(self._copies.values()))
            self._copies[device] = tuple(values.to(device) for values in own)
        return self._copies[device]
