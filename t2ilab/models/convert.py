"""Carrying weights between our networks and published ones that compute the same with other names and layouts.

A `Part` says which published tensors one of our tensors is made of, and how; a list of parts is read in both
directions, and every tensor of either side must be named exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors))


@dataclass(frozen=True)
class Part:
    """One of our tensors.

    Attributes:
        ours: its name.
        theirs: the names of the published tensors it holds.
        join: makes it of them; by default one below the other.
        split: the inverse.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor] = _stack
    split: Callable[[Tensor], Sequence[Tensor]] | None = None

    def separated(self, tensor: Tensor) -> Sequence[Tensor]:
        """The published tensors of ours."""
        return tensor.chunk(len(self.theirs)) if self.split is None else self.split(tensor)


def layer(ours: str, *theirs: str) -> list[Part]:
    """Weight and bias of a linear layer that holds one or several published layers, one below the other."""
    return [Part(f"{ours}.{end}", tuple(f"{name}.{end}" for name in theirs)) for end in ("weight", "bias")]


def swapped(ours: str, theirs: str) -> list[Part]:
    """A layer that gives (shift, scale) here and (scale, shift) there."""

    def swap(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(tensors[0].chunk(2)[::-1])

    return [
        Part(f"{ours}.{end}", (f"{theirs}.{end}",), swap, lambda tensor: [swap([tensor])])
        for end in ("weight", "bias")
    ]


def patches_in(theirs: str, patch: int) -> list[Part]:
    """`patch_in`: a linear layer on flattened patches (channel, row, column) here, a convolution there."""
    weight = Part(
        "patch_in.weight",
        (f"{theirs}.weight",),
        lambda tensors: tensors[0].flatten(1),
        lambda tensor: [tensor.unflatten(1, (-1, patch, patch))],
    )
    return [weight, Part("patch_in.bias", (f"{theirs}.bias",))]


def patches_out(theirs: str, patch: int) -> list[Part]:
    """`final`, which gives patches as (channel, row, column) here and as (row, column, channel) there."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].unflatten(0, (patch * patch, -1)).transpose(0, 1).flatten(0, 1)

    def split(tensor: Tensor) -> Sequence[Tensor]:
        return [tensor.unflatten(0, (-1, patch * patch)).transpose(0, 1).flatten(0, 1)]

    return [Part(f"final.{end}", (f"{theirs}.{end}",), join, split) for end in ("weight", "bias")]


def without_variance(tensor: Tensor, patch: int, channels: int) -> Tensor:
    """The first C channels of a last layer that gives patches of 2 C, as (row, column, channel)."""
    if len(tensor) != patch**2 * 2 * channels:
        return tensor
    return tensor.unflatten(0, (patch**2, 2 * channels))[:, :channels].flatten(0, 1)


def from_published(parts: Iterable[Part], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict, made of a published one.

    Raises:
        ValueError: tensors are missing or left over.
    """
    parts = list(parts)
    _compare({name for part in parts for name in part.theirs}, set(state))
    return {part.ours: part.join([state[name] for name in part.theirs]).contiguous() for part in parts}


def to_published(parts: Iterable[Part], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict, made of ours.

    Raises:
        ValueError: tensors are missing or left over.
    """
    parts = list(parts)
    _compare({part.ours for part in parts}, set(state))
    return dict(_published(parts, state))


def _published(parts: Iterable[Part], state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for part in parts:
        for name, tensor in zip(part.theirs, part.separated(state[part.ours]), strict=True):
            yield name, tensor.contiguous()


def _compare(wanted: set[str], given: set[str]) -> None:
    if wanted != given:
        raise ValueError(
            "the weights are those of another network: "
            f"missing {sorted(wanted - given)[:3]}, left over {sorted(given - wanted)[:3]}"
        )


def require(what: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a setting that the other side cannot express.

    Args:
        what: whose settings they are, for the sentence.
        given: settings by name; one that is left out counts as wanted.
        wanted: the values they must have.
    """
    for name, value in wanted.items():
        if given.get(name, value) != value:
            raise ValueError(f"{what} with {name}={given[name]!r} cannot be converted, only with {value!r}")
