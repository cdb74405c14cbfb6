"""The check of a resolved config, before anything heavy is built.

Every node with a `_target_` is held against the signature it will call: unknown keys (with a suggestion),
missing keys, wrong types; then the cheap parts are built for trial, networks on the meta device, so that the
constructors can check ranges; then the stage's options say whether the parts fit together. All problems are
collected, each with its dotted path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeGuard

from t2ilab.build import Config, Node, arguments, build, is_node, locate
from t2ilab.config.signature import UNKNOWN, node_problems, parameters_of


def problems(config: Config, *, trial: Collection[str] = (), unsound: Collection[str] = ()) -> list[str]:
    """What is wrong with the nodes of `config`, one sentence per fault; an empty list if nothing is.

    Args:
        config: groups by name, each a resolved node of plain dicts and lists, several of them by name, or None.
        trial: groups that are built for trial if their signatures hold.
        unsound: groups that are known to have a fault.
    """
    found = [
        f"{group}: wanted a choice of conf/{group}, got {node!r}"
        for group, node in config.items()
        if _odd(node)
    ]
    for path, node in _nodes(config):
        found += node_problems(path, node)
    unsound = {*unsound, *map(group_of, found)}
    for group in trial:
        if group in unsound:
            continue
        for name, node in members(group, config.get(group)).items():
            if UNKNOWN in node.values():  # a size that only the model of init_from gives
                continue
            if not _mentions(node, [config.get(g) for g in unsound]):
                found += [line for line in _trial(name, node, _parts(config)) if line not in found]
    return found


def _mentions(value: object, nodes: list[Any]) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return any((is_node(item) and item in nodes) or _mentions(item, nodes) for item in items)


def group_of(line: str) -> str:
    """The group that a sentence about a fault begins with."""
    return re.split(r"[:.\[]", line, maxsplit=1)[0]


def misfits(config: Config, unsound: Collection[str]) -> list[str]:
    """What does not fit together, in the words of the stage's own options.

    Args:
        config: as in `problems`.
        unsound: groups with a fault of their own, which are not to be built.
    """
    if "stage" in unsound:
        return []
    try:
        return list(build(config["stage"]).unfit(config, unsound))
    except Exception as error:
        if unsound:  # whose faults are told, and may be the cause
            return []
        return [broken("options: the chosen parts do not fit together", error)]


def _odd(node: object) -> bool:
    return node is not None and not is_node(node) and not _is_several(node)


def _is_several(node: object) -> TypeGuard[Mapping[str, Node]]:
    """Whether a group holds several choices by name, as `terms` does."""
    return isinstance(node, Mapping) and bool(node) and all(is_node(item) for item in node.values())


def members(group: str, node: object) -> dict[str, Mapping[str, Any]]:
    """The nodes of a group with their paths: one, several, or none."""
    if _is_several(node):
        return {f"{group}.{name}": item for name, item in node.items()}
    return {group: node} if is_node(node) else {}


def _nodes(config: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with its path; a whole group that another one mentions (`${timestep}`) comes once, as itself."""
    for group, node in config.items():
        for name, item in members(group, node).items():
            yield from _inner_nodes(item, name, _parts(config), top=True)


def _parts(config: Config) -> list[Mapping[str, Any]]:
    """The nodes of all groups."""
    return [node for group, value in config.items() for node in members(group, value).values()]


def _inner_nodes(
    value: object, path: str, groups: list[Mapping[str, Any]], *, top: bool = False
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if is_node(value):
            if not top and value in groups:
                return
            yield path, value
        for key, item in value.items():
            yield from _inner_nodes(item, f"{path}.{key}", groups)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _inner_nodes(item, f"{path}[{index}]", groups)


def _trial(group: str, node: Node, parts: list[Mapping[str, Any]]) -> list[str]:
    """Builds a part and throws it away; one that reads files is only asked whether its folder is there.

    Args:
        parts: of all groups, which are asked for themselves.
    """
    import torch

    from t2ilab.config.limits import on_meta
    from t2ilab.core.folders import local_folder

    try:
        folders = dict(_folders(group, node))
        for option, path in (folders | dict(_later_folders(group, node, parts))).items():
            local_folder(path, option)
        if not folders:
            with on_meta():
                made = build(node)
            if group == "optimizer":  # a function that waits for parameters and checks its numbers then
                made([("weight", torch.nn.Parameter(torch.zeros(2, 2)))])
    except (ValueError, TypeError) as error:
        return [_with_group(group, str(error))]
    except Exception as error:
        return [broken(f"{group}: nothing can be made of these options", error)]
    return []


def broken(fault: str, error: Exception) -> str:
    """The fault, with what libraries raised on values that they were not made for; T2ILAB_TRACEBACK=1 shows where."""
    if os.environ.get("T2ILAB_TRACEBACK"):
        raise error
    return f"{fault} ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"


def _folders(path: str, node: Node) -> Iterator[tuple[str, Any]]:
    """The folders that a part reads, by option: its own and those of named or inner parts."""
    if "path" in node and not _goes_without(node):
        yield f"{path}.path", node["path"]
    for key, value in arguments(node).items():
        if _is_several(value) or (path == "autoencoder" and is_node(value)):
            for name, item in members(f"{path}.{key}", value).items():
                yield from _folders(name, item)


def _goes_without(node: Node) -> bool:
    """Whether a part without a folder is whole: its constructor has None as the default."""
    return node["path"] is None and parameters_of(locate(node["_target_"]))["path"].default is None


def _later_folders(path: str, node: Node, parts: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The folders of partial nodes, such as encoders, which building the part does not read yet."""
    for name, inner in _inner_nodes(node, path, parts, top=True):
        if inner.get("_partial_") and "path" in inner:
            yield f"{name}.path", inner["path"]


def _with_group(group: str, message: str) -> str:
    """`message` beginning with an option's name; a constructor mostly names it already."""
    first = message.split(maxsplit=1)[0]
    return message if "." in first or "=" in first else f"{group}: {message}"
