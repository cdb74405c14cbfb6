"""Which layers of a network an adapter sits at, and whether it suits them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from t2ilab.models.adapters import KNOWN, Adapter, LoKr


def adaptable(network: nn.Module) -> list[str]:
    """Names of the layers that an adapter can sit at: plain linear ones and convolutions.

    Layers with a computation of their own before the product (patches) are none.
    """
    return [name for name, module in network.named_modules() if type(module) in (nn.Linear, nn.Conv2d)]


def matched(network: nn.Module, adapter: Adapter) -> tuple[str, ...]:
    """Names of the layers that get the adapter.

    Raises:
        ValueError: none is matched, or one of the endings matches none; the layers there are are listed. Or an ending
            matches convolutions, and the adapter is for matrices. Or one begins as more directions than a matrix has.
    """
    names = adaptable(network)
    plain = [name for name in names if type(network.get_submodule(name)) is nn.Linear]
    if isinstance(adapter.targets, str):
        found = [name for name in plain if re.fullmatch(KNOWN[adapter.targets], name)]
        missed = [] if found else [adapter.targets]
    else:
        names = names if adapter.convolutions else plain
        hits = {end: [name for name in names if _ends(name, end)] for end in adapter.targets}
        found = [name for name in names if any(name in hit for hit in hits.values())]
        missed = [end for end, hit in hits.items() if not hit]
        _refuse_convolutions(network, adapter.targets if adapter.begins_inside else missed)
    if missed:
        there = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names})
        raise ValueError(
            f"adapter.targets: no layer ends in {', '.join(missed)}; there are {', '.join(there)}"
        )
    wide = too_wide(network, found, adapter) if adapter.begins_inside else ""
    if wide:
        raise ValueError(f"{wide}: PiSSA begins as singular directions of each, of which there are no more")
    return tuple(found)


def too_wide(network: nn.Module, layers: Sequence[str], adapter: Adapter) -> str:
    """Which layers have a smaller side than the rank, and what to change; "" if none has.

    LoKr is of smaller matrices, whole where they are small.
    """
    sides = [_smaller_side(network.get_submodule(name)) for name in layers]
    narrow = [side for side in sides if side < adapter.rank]
    if not narrow or isinstance(adapter, LoKr):
        return ""
    return (
        f"adapter.rank={adapter.rank} is more than the smaller side of {len(narrow)} of {len(layers)} layers, which "
        f"is down to {min(narrow)}; adapter.rank={min(narrow)} suits all of them"
    )


def _smaller_side(layer: Any) -> int:
    """Of the matrix that a layer multiplies with, which has no higher rank."""
    weight = layer.get_base_layer().weight if hasattr(layer, "get_base_layer") else layer.weight
    return min(weight.flatten(1).shape)


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _refuse_convolutions(network: nn.Module, ends: Sequence[str]) -> None:
    """Says which endings are those of convolutions: LoHa and LoKr here, and the SVD of PiSSA, are of matrices."""
    convolutions = [n for n in adaptable(network) if type(network.get_submodule(n)) is nn.Conv2d]
    wrong = [end for end in ends if any(_ends(name, end) for name in convolutions)]
    if wrong:
        raise ValueError(
            f"adapter.targets: {', '.join(wrong)} names convolutions, and this adapter is for linear layers alone: "
            "name those, or choose adapter=lora, rslora or dora"
        )
