"""Counting parameters and multiply-accumulates without running a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def parameters(module: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def gmac(run: Callable[[], object]) -> float:
    """10^9 multiply-accumulates of what `run()` computes, half of the operations torch counts.

    Build the network and its inputs under `torch.device("meta")` to count without memory or time. The figures
    that the DiT paper calls Gflops are these.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2e9
