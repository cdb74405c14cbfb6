"""A smaller network of the same kind: which of its parts stay, and the weights that it takes over.

A transformer keeps whole blocks, evenly from the first to the last. A U-Net keeps fewer residual blocks per
resolution, or with one of them fewer channels. What has the teacher's shape starts with its weights; what is narrower
starts with the first rows and columns of them.
Source: Sanh et al. 2019 (DistilBERT), arXiv 1910.01108; Kim et al. 2023 (BK-SDM), arXiv 2305.15798.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = re.compile(r"blocks\.(\d+)\.")


def kept_blocks(depth: int, keep: float) -> list[int]:
    """The numbers of the blocks that stay, from 0: evenly, the first and the last among them."""
    count = max(1, round(depth * keep))
    if count == 1:
        return [0]
    return [round(i * (depth - 1) / (count - 1)) for i in range(count)]


def smaller(model: Mapping[str, Any], keep: float) -> dict[str, Any]:
    """The config node of a network with about the share `keep` of the parameters of `model`'s blocks.

    Raises:
        ValueError: the network says neither its depth nor its widths, or cannot become smaller.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"loss.keep must be in (0, 1], got {keep}")
    if isinstance(model.get("depth"), int):
        changed = {"depth": len(kept_blocks(model["depth"], keep))}
    elif isinstance(model.get("widths"), Sequence):
        changed = _smaller_unet(model, keep)
    else:
        raise ValueError(
            f"loss.keep: {model['_target_']} says neither its depth nor its widths; choose another loss"
        )
    if keep < 1 and all(model[name] == value for name, value in changed.items()):
        raise ValueError(
            f"loss.keep={keep}: this network has nothing to leave out, {changed} stays; choose less"
        )
    return {**model, **changed}


def _smaller_unet(model: Mapping[str, Any], keep: float) -> dict[str, Any]:
    if model["layers"] > 1:
        return {"layers": max(1, round(model["layers"] * keep))}
    heads = model["head_dim"]
    unit = math.lcm(model["groups"], *(heads if isinstance(heads, Sequence) else [heads]))
    return {"widths": [max(unit, round(width * math.sqrt(keep) / unit) * unit) for width in model["widths"]]}


@torch.no_grad()
def take_over(student: nn.Module, teacher: nn.Module, keep: float) -> None:
    """Gives a smaller network the weights of the larger one."""
    old, depth = teacher.state_dict(), getattr(teacher, "depth", None)
    blocks = None if depth is None else kept_blocks(depth, keep)
    new = student.state_dict()
    for name, value in new.items():
        source = old.get(_name_in_teacher(name, blocks))
        if source is not None and source.ndim == value.ndim:
            _copy_corner(value, source)
    student.load_state_dict(new)


def _name_in_teacher(name: str, blocks: list[int] | None) -> str:
    """The teacher's name of a student's parameter."""
    found = BLOCK.match(name)
    if blocks is None or found is None:
        return name
    return f"blocks.{blocks[int(found[1])]}.{name[found.end() :]}"


def _copy_corner(value: Tensor, source: Tensor) -> None:
    """The first entries along each axis, as many as both have."""
    corner = tuple(slice(0, min(own, other)) for own, other in zip(value.shape, source.shape, strict=True))
    value[corner] = source[corner].to(value.dtype)


def matched_taps(student: nn.Module, teacher: nn.Module, keep: float) -> list[tuple[str, str]]:
    """Hidden states of both networks that belong together, (student's, teacher's)."""
    names: Any = getattr(teacher, "tap_names", None)
    if names is not None:
        return [(name, name) for name in names]
    blocks = kept_blocks(int(getattr(teacher, "depth", 0)), keep)
    return [(f"block{own + 1}", f"block{other + 1}") for own, other in enumerate(blocks)]
