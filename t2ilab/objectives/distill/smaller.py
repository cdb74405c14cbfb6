"""A smaller network of the same kind: which of its parts stay, and the weights that it takes over.

A transformer keeps whole blocks, evenly from the first to the last. A U-Net keeps fewer residual blocks per
resolution, or with one of them fewer channels. What has the teacher's shape starts with its weights; what is narrower
starts with the first rows and columns of them, of each of the matrices that lie in one (queries, keys, values).
Source: Sanh et al. 2019 (DistilBERT), arXiv 1910.01108; Kim et al. 2023 (BK-SDM), arXiv 2305.15798.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from t2ilab.build import Node

BLOCK = re.compile(r"blocks\.(\d+)\.")


def kept_blocks(depth: int, keep: float) -> list[int]:
    """The numbers of the blocks that stay, from 0: evenly, the first and the last among them."""
    return even_blocks(depth, max(1, round(depth * keep)))


def even_blocks(depth: int, count: int) -> list[int]:
    """Of `depth` blocks the numbers of `count`, from 0: evenly, the first and the last among them."""
    if count == 1:
        return [0]
    return [round(i * (depth - 1) / (count - 1)) for i in range(count)]


def of_the_same_kind(model: Node, chosen: Node) -> dict[str, Any]:
    """The config node `chosen` of a student whose teacher's is `model`.

    Raises:
        ValueError: they are different classes, so that no weights fit.
    """
    names = [node["_target_"].rpartition(".")[2] for node in (chosen, model)]
    if chosen["_target_"] != model["_target_"]:
        raise ValueError(
            f"model: the student would be a {names[0]} and its teacher is a {names[1]}; choose a preset of that kind"
        )
    return dict(chosen)


def smaller(model: Node, keep: float) -> dict[str, Any]:
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


def _smaller_unet(model: Node, keep: float) -> dict[str, Any]:
    if model["layers"] > 1:
        return {"layers": max(1, round(model["layers"] * keep))}
    heads = model["head_dim"]
    unit = math.lcm(model["groups"], *(heads if isinstance(heads, Sequence) else [heads]))
    return {"widths": [max(unit, round(width * math.sqrt(keep) / unit) * unit) for width in model["widths"]]}


def take_over(student: nn.Module, teacher: nn.Module) -> None:
    """Gives a network of another size what it can take of the weights of its teacher."""
    old, new, blocks = teacher.state_dict(), student.state_dict(), _blocks(student, teacher)
    widths = tuple(int(getattr(network, "width", 1)) for network in (student, teacher))
    for name, value in new.items():
        source = old.get(_name_in_teacher(name, blocks))
        if source is not None and source.ndim == value.ndim:
            _copy_corner(value, source, widths)
    student.load_state_dict(new)


def _blocks(student: nn.Module, teacher: nn.Module) -> list[int] | None:
    """For each block of the student that of the teacher which it begins as; None without blocks."""
    depths = [getattr(network, "depth", None) for network in (teacher, student)]
    return None if None in depths else even_blocks(int(depths[0]), int(depths[1]))  # type: ignore[arg-type]


def _name_in_teacher(name: str, blocks: list[int] | None) -> str:
    """The teacher's name of a student's parameter."""
    found = BLOCK.match(name)
    if blocks is None or found is None:
        return name
    return f"blocks.{blocks[int(found[1])]}.{name[found.end() :]}"


def _copy_corner(value: Tensor, source: Tensor, widths: tuple[int, ...]) -> None:
    """The first entries along each axis, as many as both have; of an axis that holds k widths, in each of the k."""
    shapes = [_cut(own, other, widths) for own, other in zip(value.shape, source.shape, strict=True)]
    own, other = (
        tensor.view([n for part in shapes for n in part[k]]) for k, tensor in enumerate((value, source))
    )
    corner = tuple(slice(0, min(sizes)) for sizes in zip(own.shape, other.shape, strict=True))
    own[corner] = other[corner].to(value.dtype)


def _cut(own: int, other: int, widths: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """An axis of both as (parts, size of a part): k parts where each is k times its network's width, else one."""
    mine, its = (
        size // width if size % width == 0 else 0 for size, width in zip((own, other), widths, strict=True)
    )
    k = mine if mine == its > 0 and min(widths) > 1 else 1
    return (k, own // k), (k, other // k)


def matched_taps(student: nn.Module, teacher: nn.Module) -> list[tuple[str, str]]:
    """Hidden states of both networks that belong together, (student's, teacher's)."""
    names: Any = getattr(teacher, "tap_names", None)
    if names is not None:
        there: Any = getattr(student, "tap_names", ())
        return [(name, name) for name in names if name in there]
    blocks = _blocks(student, teacher) or []
    return [(f"block{own + 1}", f"block{other + 1}") for own, other in enumerate(blocks)]
