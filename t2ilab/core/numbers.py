"""Numbers that a network is told beside time and text: the guidance scale, the time that a step ends at.

A number n adds a learned vector W e(n - n_0) to every text token and to the pooled text, with the sinusoid e of a
hundredfold and the value n_0 that stands for "nothing special". W starts at zero: a network that gets such an input
begins as the one it was. As LCM tells its students the guidance scale (Luo et al. 2023, arXiv 2310.04378), which adds
the vector to the embedding of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.types import Condition

NAME = "number_embed"  # the part of a backbone that holds it; optimizers know "embed" for what is no matrix
DEFAULTS = {"guidance": 1.0, "until": 0.0}  # the standard scale, 1 for none; the end of a step in [0, 1]
FREQUENCIES = 64
SCALE = 100.0  # of the numbers before the sinusoid; LCM's 1000 makes neighbouring scales strangers


class NumberInputs(nn.Module):
    """Learned vectors of named numbers.

    Args:
        names: of DEFAULTS.
        dim, pooled_dim: widths of text tokens and pooled text, or None for no pooled text.
    """

    def __init__(self, names: Sequence[str], dim: int, pooled_dim: int | None) -> None:
        super().__init__()
        self.names = tuple(names)
        widths = {"tokens": dim} | ({} if pooled_dim is None else {"pooled": pooled_dim})
        self.layers = nn.ModuleDict(
            {f"{name}_{place}": _silent(width) for name in self.names for place, width in widths.items()}
        )

    def forward(self, cond: Condition) -> Condition:
        """The condition with the vectors added; a number that it lacks is the default."""
        tokens, pooled = cond.tokens, cond.pooled
        for name in self.names:
            signal = _signal(cond.numbers.get(name), DEFAULTS[name], cond.tokens)
            tokens = tokens + self.layers[f"{name}_tokens"](signal)[:, None].to(tokens.dtype)
            if pooled is not None and f"{name}_pooled" in self.layers:
                pooled = pooled + self.layers[f"{name}_pooled"](signal).to(pooled.dtype)
        return replace(cond, tokens=tokens, pooled=pooled, numbers={})


def _silent(width: int) -> nn.Linear:
    layer = nn.Linear(2 * FREQUENCIES, width, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _signal(value: Tensor | None, default: float, like: Tensor) -> Tensor:
    """e(value - default) minus e(0), (B, 2 FREQUENCIES) float32: zero at the default."""
    if value is None:
        return torch.zeros(len(like), 2 * FREQUENCIES, device=like.device)
    frequencies = torch.logspace(0, -4, FREQUENCIES, device=like.device)
    angles = SCALE * (value.float() - default)[:, None] * frequencies
    return torch.cat([angles.cos() - 1.0, angles.sin()], -1)


def add_numbers(backbone: nn.Module, names: Sequence[str], conditioner: Mapping[str, Any]) -> None:
    """Gives a backbone inputs for numbers, of the widths that the config node of its conditioner names.

    Raises:
        ValueError: the conditioner does not name its width.
    """
    if not names:
        return
    if not isinstance(conditioner.get("dim"), int):
        raise ValueError("a network that is told numbers needs a conditioner with an option dim")
    sizes = (conditioner["dim"], conditioner.get("pooled_dim"))
    backbone.add_module(NAME, NumberInputs(names, *sizes))


def tell(backbone: nn.Module, names: Sequence[str], conditioner: Mapping[str, Any]) -> tuple[str, ...]:
    """Has a backbone be told these numbers too; what it is told already stays as it is.

    Returns:
        how the names of the new weights begin.
    """
    before = getattr(backbone, NAME, None)
    known = reads(backbone)
    new = [name for name in dict.fromkeys(names) if name not in known]
    if new:
        add_numbers(backbone, [*known, *new], conditioner)
    if new and before is not None:
        getattr(backbone, NAME).load_state_dict(before.state_dict(), strict=False)
    return tuple(f"{NAME}.layers.{name}_" for name in new)


def reads(backbone: nn.Module) -> tuple[str, ...]:
    """The numbers that a backbone is told."""
    inputs = getattr(backbone, NAME, None)
    return tuple(getattr(backbone, "reads", ())) if inputs is None else inputs.names


def with_numbers(backbone: nn.Module, cond: Condition | None) -> Condition | None:
    """The condition as the backbone shall read it."""
    inputs = getattr(backbone, NAME, None)
    if inputs is None or cond is None:
        return cond
    made: Condition = inputs(cond)
    return made
