"""Prodigy: Adam that finds its own learning rate, by prodigyopt.

The rate is d lr, where d estimates the distance to the solution from below and grows while the run goes on. So lr
stays 1, and the schedule multiplies it: a run that decays decays from whatever was found.
Source: Mishchenko & Defazio 2023, arXiv 2306.06101.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence

import torch

from t2ilab.optim.groups import Named, check_numbers, decay_groups, required


def prodigy(
    parameters: Named,
    *,
    lr: float,
    betas: Sequence[float],
    beta3: float | None,
    eps: float,
    weight_decay: float,
    no_decay: Sequence[str],
    d0: float,
    d_coef: float,
    growth_rate: float | None,
    use_bias_correction: bool,
    safeguard_warmup: bool,
) -> torch.optim.Optimizer:
    """prodigyopt.Prodigy with decoupled decay and the groups of `decay_groups`.

    Args:
        beta3: of the averages behind d; None stands for sqrt(beta_2).
        d0: first estimate of d.
        d_coef: factor on d, the number to tune if any.
        growth_rate: most that d may grow by in one step, as a factor; None for no limit.
        use_bias_correction: as in Adam.
        safeguard_warmup: keep the warm-up of the schedule out of the estimate of d.
    """
    package = required("prodigyopt", "prodigy")
    check_numbers(lr, betas)
    if min(d0, d_coef) <= 0:
        raise ValueError(f"optimizer.d0 and optimizer.d_coef must be positive, got {d0} and {d_coef}")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line about decay, which we say ourselves
        return package.Prodigy(
            decay_groups(parameters, weight_decay, no_decay),
            lr=lr,
            betas=tuple(betas),
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            decouple=True,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            d_coef=d_coef,
            growth_rate=math.inf if growth_rate is None else growth_rate,
        )
