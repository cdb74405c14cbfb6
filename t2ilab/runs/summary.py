"""The choices of a run in a few words, for the start."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from t2ilab.build import Config, Node, is_node

WIDTH = 100  # columns of a terminal
TOLD = {  # what of each group is worth a word, by the word that it gets
    "data": ("data", {"subset": "", "resolution": "resolution"}),
    "model": ("model", {}),
    "loss": ("objective", {}),
    "terms": ("with", {}),
    "optimizer": ("optimizer", {"lr": "rate"}),
    "schedule": ("schedule", {"warmup": "warmup"}),
    "ema": ("average", {"decay": "decay", "sigma_rel": ""}),
    "sampler": ("sampler", {"steps": "steps"}),
    "guidance": ("guidance", {"scale": "scale"}),
}


def summary(config: Config, *, precision: str, threads: int | None) -> str:
    """Data, model, objective, optimizer and rate, EMA, sampler, precision and threads, in lines of 100 columns.

    Args:
        config: of the run, checked; groups that the stage does not use are None.
        precision: the one that is used.
        threads: of the processor that computes; None where a device does.
    """
    parts = [
        f"{word} {_said(config[group], keys)}" for group, (word, keys) in TOLD.items() if config.get(group)
    ]
    parts.append(f"precision {precision}")
    if threads is not None:
        parts.append(f"threads {threads}")
    return textwrap.fill("; ".join(parts), WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _said(node: Node, keys: Mapping[str, str]) -> str:
    """The class of a node, or those of several, with the numbers that are asked for, wherever they are in it."""
    if not is_node(node):
        return ", ".join(_said(item, keys) for item in node.values())
    found = {key: value for key, value in _leaves(node) if key in keys}
    numbers = [f"{word} {found[key]}".strip() for key, word in keys.items() if found.get(key) is not None]
    return " ".join([node["_target_"].rpartition(".")[2], *numbers])


def _leaves(node: Node) -> list[tuple[str, Any]]:
    """The plain values of a node and its inner ones, outer ones last."""
    inner = [pair for value in node.values() if isinstance(value, Mapping) for pair in _leaves(value)]
    return inner + [(key, value) for key, value in node.items() if isinstance(value, str | int | float)]
