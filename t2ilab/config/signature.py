"""A node held against the signature it will call: names, kinds, and numbers that are numbers."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t2ilab.build import Node, arguments, gives_number, is_node, locate
from t2ilab.core.characters import printable, whole

UNKNOWN = "???"  # a value that is missing or could not be resolved, which the caller has noted already
LARGEST = 2**53  # of whole numbers: floats, JSON and torch still hold it


def node_problems(path: str, node: Node) -> list[str]:
    """A sentence for each option of a node that its class or function does not take as it is."""
    try:
        target = locate(node["_target_"])
        parameters = parameters_of(target)
    except (ValueError, TypeError) as error:
        return [f"{path}.{error}" if str(error).startswith("_target_") else f"{path}._target_: {error}"]
    if not isinstance(node.get("_partial_", False), bool):
        return [f"{path}._partial_: wanted true or false, got {node['_partial_']!r}"]
    keys = arguments(node)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    found = [] if open_ended else [_unknown(path, key, names) for key in keys if key not in names]
    if not node.get("_partial_"):
        required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
        found += [f"{path}.{name}: missing" for name in required if name not in keys]
    hints = _hints(target)
    for key, value in keys.items():
        if key in names and key in hints:
            found += _type_problem(f"{path}.{key}", value, hints[key])
        found += _endless(f"{path}.{key}", value)
    return found


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class or function by name."""
    return dict(inspect.signature(target).parameters)


def _unknown(path: str, key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {path}.{close[0]}?" if close else f"it takes: {', '.join(names)}"
    return f"{path}.{key}: unknown option; {hint}"


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (
        NameError,
        TypeError,
    ):  # imported under TYPE_CHECKING only, or no Python: nothing to hold it against
        return {}


def _type_problem(path: str, value: object, wanted: Any) -> list[str]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if is_node(value):
        return _part_problem(path, value, wanted)
    if wanted is Any or value == UNKNOWN or _holds_nodes(value):
        return []
    try:
        adapter = TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except (PydanticSchemaGenerationError, TypeError):
        return []
    except (
        ValidationError,
        PydanticUserError,
    ):  # the last of a dataclass, which a config makes by its _target_
        return [_wanted(path, value, wanted)]
    return []


def _wanted(path: str, value: object, wanted: Any) -> str:
    """That a value is of another kind than wanted."""
    text = json.dumps(value, ensure_ascii=False)
    if whole(text) != text:
        return f"{path}: {printable(text)} holds bytes that are not UTF-8; rename the file, or link to it"
    number = isinstance(value, int | float) and str in _members(wanted)
    quoted = f" (as a text: {path}=\"'{value}'\")" if number else ""
    return f"{path}: wanted {_name(wanted)}, got {_shown(value)}{quoted}"


def _part_problem(path: str, node: Node, wanted: Any) -> list[str]:
    """A sentence if a node stands where a plain value belongs, or makes something of another class."""
    members = _members(wanted)
    if any(kind in (Any, object) or getattr(kind, "_is_protocol", False) for kind in members):
        return []
    try:
        made = locate(node["_target_"])
    except ValueError:  # a fault of the node's own, listed with it
        return []
    if collections.abc.Callable in members:
        return []
    if gives_number(node):
        return [] if {int, float} & set(members) else [f"{path}: wanted {_name(wanted)}, got a number"]
    classes = tuple(member for member in members if isinstance(member, type))
    fits = not isinstance(made, type) or (not node.get("_partial_") and issubclass(made, classes))
    return [] if fits else [f"{path}: wanted {_name(wanted)}, got a part: {node['_target_']}"]


def _members(wanted: Any) -> list[Any]:
    """The kinds of a union, those of containers without what they contain."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(wanted) for kind in _members(part)]
    return [typing.get_origin(wanted) or wanted]


def _holds_nodes(value: object) -> bool:
    if isinstance(value, list):
        return any(_holds_nodes(item) for item in value)
    if isinstance(value, Mapping):
        return is_node(value) or any(_holds_nodes(item) for item in value.values())
    return False


def _endless(path: str, value: object) -> list[str]:
    """A sentence for each number that is infinite, none, or beyond all counting; inner nodes come by themselves."""
    found = []
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            found.append(f"{path}: wanted a finite number, got {number}")
        elif isinstance(number, int) and abs(number) > LARGEST:
            found.append(f"{path}: wanted a number up to 2^53, got {_shown(number)}")
    return found


def _numbers(value: object) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, Mapping) and not is_node(value):
        for item in value.values():
            yield from _numbers(item)


def _name(wanted: Any) -> str:
    """A kind of value in the words of a config."""
    kind, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is type(None):
        return "null"
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_name, inner))
    if kind in (list, collections.abc.Sequence):
        return f"a list of {_name(inner[0])}"
    return wanted.__name__ if inspect.isclass(wanted) else str(wanted).replace("typing.", "")


def _shown(value: object) -> str:
    """The value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
