"""Derivatives along a direction, forward through a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def jvp(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """function(*at) and its derivative d/dh function(*(at + h along)) at h = 0, both without gradient.

    Torch's fused attention has no forward derivative, so it is taken by its plain formula here; autocast is off, as
    the derivative of a rounded network is noise.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.autocast(at[0].device.type, enabled=False):
        found: tuple[Tensor, Tensor] = torch.func.jvp(function, at, along)  # type: ignore[assignment]
    return found[0].detach(), found[1].detach()
