"""What the optimizers here share: which parameters decay, whose package is needed, and the checks of numbers."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Named = Iterable[tuple[str, nn.Parameter]]


def decay_groups(parameters: Named, weight_decay: float, no_decay: Sequence[str]) -> list[dict[str, Any]]:
    """Parameter groups: weights of layers decay, vectors and the layers named in `no_decay` do not.

    Decay pulls towards 0, which is a plain place for a matrix of a layer and a wrong one for the scale of a norm.

    Args:
        parameters: (name, parameter) pairs.
        weight_decay: of the parameters that decay; 0 leaves one group.
        no_decay: parts of names, such as `embed` or `modulation`.
    """
    if weight_decay < 0:
        raise ValueError(f"optimizer.weight_decay must not be negative, got {weight_decay}")
    named = list(parameters)
    if weight_decay == 0:
        return [{"params": [p for _, p in named], "weight_decay": 0.0}]
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for name, p in named:
        spared = p.ndim < 2 or any(part in name for part in no_decay)
        groups[spared]["params"].append(p)
    return [group for group in groups if group["params"]]


def check_numbers(lr: float, betas: Sequence[float] = (0.0, 0.0)) -> None:
    """Refuses a negative rate and betas outside [0, 1).

    Raises:
        ValueError: naming the option.
    """
    if not lr >= 0:
        raise ValueError(f"optimizer.lr must not be negative, got {lr}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.betas must be two numbers in [0, 1), got {list(betas)}")


def required(package: str, choice: str) -> Any:
    """The module of an optional package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"optimizer={choice} needs the package {package}: pip install 't2ilab[optim]'"
        ) from error


def rate(group: Mapping[str, Any]) -> float:
    """The learning rate that a group of parameters is really stepped with; Prodigy's is d times the given one."""
    return float(group["lr"] * group["d"] if "d_max" in group else group["lr"])


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[tuple[Sequence[nn.Parameter], float]]
) -> None:
    """Gives parameters a rate of their own, as groups behind the others.

    Args:
        rates: parameters and their rate; those that the optimizer does not have are left out.

    Raises:
        ValueError: the optimizer finds one rate for all.
    """
    for parameters, lr in rates:
        own = {id(p) for p in parameters}
        for group in list(optimizer.param_groups):
            mine = [p for p in group["params"] if id(p) in own]
            if not mine:
                continue
            group["params"] = [p for p in group["params"] if id(p) not in own]
            optimizer.param_groups.append({**group, "params": mine, "lr": lr})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    if len({group["lr"] for group in optimizer.param_groups}) > 1 and "d_max" in optimizer.param_groups[0]:
        raise ValueError(
            "optimizer: Prodigy finds one rate for all weights; for a text encoder or a word beside the "
            "network choose optimizer=adamw_sft, or stage.word_lr=0"
        )
