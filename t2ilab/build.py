"""From a config node to the object it describes.

A node is a dict with `_target_: package.module.Name`; its other keys are keyword arguments, which may be
nodes again. `_partial_: true` gives a function that still waits for arguments. The same function serves the
command line and the reading of exports, so an export needs nothing but this package to be rebuilt.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

RESERVED = ("_target_", "_partial_")
MOVED = {  # modules that configs and exports of version 0.1 name, and where they are now
    "t2ilab.stages.curriculum": "t2ilab.training.curriculum",
    "t2ilab.stages.machine": "t2ilab.runs.machine",
    "t2ilab.stages.mirrors": "t2ilab.training.loggers",
    "t2ilab.stages.schedule": "t2ilab.training.schedule",
}
Config = Mapping[str, Any]
"""The options of a run as plain values: groups by name, options by name, as in its config.yaml."""

Node = Mapping[str, Any]
"""`_target_` and the keyword arguments of one object, which may be nodes again."""

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # of something in a module


class NothingToCall(ValueError):
    """A dotted name of something that is neither class nor function."""


def locate(target: str) -> Callable[..., Any]:
    """The class or function with the dotted name `target`.

    Raises:
        ValueError: if there is no such module or no such name in it, or it is nothing that can be called.
    """
    if not isinstance(target, str) or not NAME.fullmatch(target):
        raise ValueError(
            f"_target_: wanted the name of a class or function, package.module.Name, got {target!r}"
        )
    module_name, _, name = current_name(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the code of a module does when it is imported
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise ValueError(f"_target_: {target} cannot be imported ({kind}{error})") from error
    if not callable(found):
        raise NothingToCall(f"_target_: {target} is no class or function")
    return found


def current_name(target: str) -> str:
    """The dotted name of today for `target`, which an earlier version may have written."""
    module, _, name = target.rpartition(".")
    return f"{MOVED.get(module, module)}.{name}"


def is_node(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and "_target_" in value


def arguments(node: Node) -> dict[str, Any]:
    """The keyword arguments of a node, without the reserved keys."""
    return {key: value for key, value in node.items() if key not in RESERVED}


def build(node: Node, **more: Any) -> Any:
    """Makes what `node` describes; `more` adds arguments that no config can hold (built objects).

    Raises:
        ValueError: if `node` names no target. What the constructor raises passes through.
    """
    if not is_node(node):
        raise ValueError(f"expected a config node with _target_, got {node!r}")
    target = locate(node["_target_"])
    keywords = {key: _value(value) for key, value in arguments(node).items()} | more
    return functools.partial(target, **keywords) if node.get("_partial_") else target(**keywords)


def _value(value: object) -> Any:
    if is_node(value):
        return build(value)
    if isinstance(value, Mapping):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def with_numbers(value: object) -> Any:
    """A config in which every node of a function `-> float` (a shift by size) is replaced by its number.

    Run folders and exports then hold what was used; an export may name classes only.
    """
    if is_node(value) and gives_number(value):
        return build(value)
    if isinstance(value, Mapping):
        return {key: with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_numbers(item) for item in value]
    return value


def gives_number(node: Node) -> bool:
    """Whether a node is a rule that makes a number, as a shift by size is."""
    if node.get("_partial_"):
        return False
    target = locate(node["_target_"])
    return not isinstance(target, type) and getattr(target, "__annotations__", {}).get("return") in (
        float,
        "float",
    )


def targets(node: object) -> list[str]:
    """Every `_target_` named in `node`, outermost first."""
    if isinstance(node, Mapping):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets(value)]
    if isinstance(node, list):
        return [name for value in node for name in targets(value)]
    return []
