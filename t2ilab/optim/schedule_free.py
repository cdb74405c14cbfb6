"""Schedule-free AdamW, by schedulefree: an average of the steps instead of a decay of the rate.

Three sequences: z takes the steps, x averages them, gradients are taken at y between them,

    y = (1 - beta_1) z + beta_1 x,    z <- z - lr update(gradient at y),    x <- (1 - c) x + c z          (1)

with c = 1 / k at a constant rate, so x is the mean of all z so far. The network carries y while it trains; the
model is x. The package can put x in the place of y and back, which costs bits that an exact resume needs. So here
the optimizer is left as it is, and whoever wants the model solves (1) for x.
Source: Defazio et al. 2024, arXiv 2405.15682.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from t2ilab.optim.groups import Named, check_numbers, decay_groups, required


def schedule_free(
    parameters: Named,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    no_decay: Sequence[str],
    r: float,
    weight_lr_power: float,
) -> torch.optim.Optimizer:
    """schedulefree.AdamWScheduleFree with the groups of `decay_groups`, ready to step.

    Args:
        betas: (beta_1 of eq. 1, beta_2 of AdamW).
        r: power of the step in the weight of a z in the average.
        weight_lr_power: power of the largest rate so far in that weight, so that a warm-up counts little.
    """
    package = required("schedulefree", "schedule_free")
    check_numbers(lr, betas)
    if betas[0] == 0:
        raise ValueError("optimizer.betas: the first one must be positive for optimizer=schedule_free, got 0")
    optimizer = package.AdamWScheduleFree(
        decay_groups(parameters, weight_decay, no_decay),
        lr=lr,
        betas=tuple(betas),
        eps=eps,
        warmup_steps=0,  # the schedule warms up
        r=r,
        weight_lr_power=weight_lr_power,
    )
    optimizer.train()
    return optimizer


@torch.no_grad()
def models(optimizers: Iterable[torch.optim.Optimizer]) -> dict[int, Tensor]:
    """x of eq. (1) by the id of its parameter, of all parameters that a schedule-free optimizer has moved.

    x = y + (1 - 1 / beta_1) (z - y). Other optimizers have none: their parameters are the model.
    """
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not group.get("train_mode", False):
                continue
            beta = group["betas"][0] if "betas" in group else group["momentum"]
            for p in group["params"]:
                if "z" in optimizer.state.get(p, {}):
                    found[id(p)] = p.lerp(optimizer.state[p]["z"].to(p.device), 1 - 1 / beta)
    return found
