"""What the check may build: networks on the meta device, up to a size that anybody trains.

A network on the meta device takes no memory for its weights, but each of its layers takes time: of a thousand
layers for one that was meant, half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

MOST_LAYERS = 10_000  # modules; Qwen-Image's 60 double blocks are about 3,000
MOST_ARRAYS = 5_000  # of weights; there about 1,900
MOST_WEIGHTS = 10**12


@contextmanager
def on_meta() -> Iterator[None]:
    """The meta device, for what is built to be checked.

    Raises:
        ValueError: of a network that is larger than `MOST_LAYERS`, `MOST_ARRAYS` or `MOST_WEIGHTS`.
    """
    size = {"layers": 0, "arrays of weights": 0, "weights": 0}
    most = {"layers": MOST_LAYERS, "arrays of weights": MOST_ARRAYS, "weights": MOST_WEIGHTS}

    def add(**more: int) -> None:
        for name, number in more.items():
            what = name.replace("_", " ")
            size[what] += number
            if size[what] > most[what]:
                raise ValueError(
                    f"this is a network of more than {most[what]:,} {what}: choose smaller numbers"
                )

    def on_module(module: nn.Module, name: str, inner: Any) -> None:
        add(layers=1)

    def on_weights(module: nn.Module, name: str, weights: Any) -> None:
        if weights is not None:
            add(arrays_of_weights=1, weights=weights.numel())

    hooks = [
        register_module_module_registration_hook(on_module),
        register_module_parameter_registration_hook(on_weights),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()
