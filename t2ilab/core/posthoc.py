"""Power-function averages, and any of them from snapshots of a few.

The average of weights theta over the steps up to t with the profile of order g weighs the weights of step s by

    p(s; t) = (g + 1) s^g / t^(g + 1),    0 <= s <= t                                                   (1)

so its horizon grows with the run. It is kept by a running average with the factor (1 - 1 / n)^(g + 1) at the
n-th step. g is named by the width of the profile, its std as a share of t:

    sigma_rel = sqrt((g + 1) / ((g + 2)^2 (g + 3)))                                                     (2)

A profile that was not kept is fitted by those that were, at whatever times: the least squares solution of
p = sum_i x_i p_i solves A x = b with the inner products A_ij = <p_i, p_j> and b_i = <p_i, p>, where

    <p_a, p_b> = (a + 1) (b + 1) / (a + b + 1) (t_a / t_b)^b / t_b,    t_a <= t_b                       (3)

and the same sum over the snapshots is the average that p would have given.
Source: Karras et al. 2024 (EDM2), arXiv 2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST = 12**-0.5  # sigma_rel of g = 0, the plain mean; (2) falls for larger g


def order_of(sigma_rel: float) -> float:
    """g of eq. (2), the largest root of g^3 + 7 g^2 + (16 - s) g + (12 - s) with s = sigma_rel^-2.

    Raises:
        ValueError: sigma_rel is not in (0, 12^(-1/2)].
    """
    if not 0 < sigma_rel <= WIDEST:
        raise ValueError(f"sigma_rel must be in (0, {WIDEST:.4f}], got {sigma_rel}")
    s = sigma_rel**-2
    p, q = -1 / 3 - s, 2 / 27 + 4 * s / 3  # of the cubic in g + 7/3, which has three real roots
    angle = math.acos(max(-1.0, 1.5 * q / p * math.sqrt(-3 / p)))
    return 2 * math.sqrt(-p / 3) * math.cos(angle / 3) - 7 / 3


def factor(order: float, update: int) -> float:
    """What a running average keeps of itself at its n-th update, n from 1: (1 - 1 / n)^(g + 1)."""
    return (1 - 1 / update) ** (order + 1)


@dataclass(frozen=True)
class Profile:
    """The profile of eq. (1) of order g = `order` at step t = `step`."""

    order: float
    step: int


def inner(a: Profile, b: Profile) -> float:
    """<p_a, p_b> of eq. (3)."""
    first, last = (a, b) if a.step <= b.step else (b, a)
    scale = (a.order + 1) * (b.order + 1) / (a.order + b.order + 1)
    return scale * (first.step / last.step) ** last.order / last.step


def shares(stored: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """How much of each stored profile makes the wanted one.

    Returns:
        x, (n,) float64 with sum 1, and the relative error of the fit, |p - sum_i x_i p_i| / |p|.
    """
    a = torch.tensor([[inner(one, other) for other in stored] for one in stored], dtype=torch.float64)
    b = torch.tensor([inner(one, wanted) for one in stored], dtype=torch.float64)
    x = torch.linalg.solve(a, b)
    x = x / x.sum()
    whole = inner(wanted, wanted)
    left = float(whole - 2 * x @ b + x @ a @ x)
    return x, math.sqrt(max(left, 0.0) / whole)
