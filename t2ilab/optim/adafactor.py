"""Adafactor, by torch: second moments of a matrix kept as one row and one column.

The state of a matrix of n x m is n + m numbers instead of AdamW's 2 n m, for models whose optimizer does not fit
beside them. The step is relative to the size of the weights and its rate at most 1 / sqrt(step).
Source: Shazeer & Stern 2018, arXiv 1804.04235.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t2ilab.optim.groups import Named, check_numbers, decay_groups


def adafactor(
    parameters: Named,
    *,
    lr: float,
    beta2_decay: float,
    eps: Sequence[float | None],
    threshold: float,
    weight_decay: float,
    no_decay: Sequence[str],
) -> torch.optim.Optimizer:
    """torch.optim.Adafactor with the groups of `decay_groups`.

    A step moves a parameter by min(lr, 1 / sqrt(step)) max(eps[1], rms(parameter)) in root mean square at most.

    Args:
        beta2_decay: beta_2 = 1 - step^beta2_decay, at most 0.
        eps: least second moment (None: the rounding of the type) and least size of the weights.
        threshold: root mean square above which an update is scaled down.
    """
    check_numbers(lr)
    if beta2_decay > 0 or threshold < 1:
        raise ValueError(
            "optimizer.beta2_decay must be at most 0 and optimizer.threshold at least 1, "
            f"got {beta2_decay} and {threshold}"
        )
    groups = decay_groups(parameters, weight_decay, no_decay)
    pair = (eps[0], float(eps[1] or 0.0))
    return torch.optim.Adafactor(groups, lr=lr, beta2_decay=beta2_decay, eps=pair, d=threshold)
