"""AdamW, by torch. Source: Loshchilov & Hutter 2017, arXiv 1711.05101."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t2ilab.optim.groups import Named, check_numbers, decay_groups


def adamw(
    parameters: Named,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    no_decay: Sequence[str],
    fused: bool,
) -> torch.optim.Optimizer:
    """torch.optim.AdamW with the groups of `decay_groups`; `fused` makes one kernel of a step."""
    check_numbers(lr, betas)
    groups = decay_groups(parameters, weight_decay, no_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused)
