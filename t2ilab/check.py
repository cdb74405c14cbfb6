"""The check of a resolved config, before anything heavy is built.

Every node with a `_target_` is held against the signature it will call: unknown keys (with a suggestion),
missing keys, wrong types; then the cheap parts are built for trial, networks on the meta device, so that the
constructors can check ranges. All problems are collected, each with its dotted path.
"""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t2ilab.build import RESERVED, arguments, build, is_node, locate


def problems(config: Mapping[str, Any], *, trial: list[str]) -> list[str]:
    """What is wrong with the nodes of `config`, one sentence per fault; an empty list if nothing is.

    Args:
        config: the resolved config, plain dicts and lists.
        trial: groups that are built for trial if their signatures hold.
    """
    found = [
        f"{group}: wanted a choice of conf/{group}, got {node!r}"
        for group, node in config.items()
        if _odd(node)
    ]
    for path, node in _nodes(config, ""):
        found += _node_problems(path, node)
    sound = {line.split(":")[0].split(".")[0] for line in found}
    for group in trial:
        if is_node(config.get(group)) and group not in sound:
            found += _trial(group, config[group])
    return found


def _odd(node: Any) -> bool:
    return node is not None and not is_node(node)


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if is_node(value):
            yield path, value
        for key, item in value.items():
            yield from _nodes(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(item, f"{path}[{index}]")


def _node_problems(path: str, node: Mapping[str, Any]) -> list[str]:
    try:
        target = locate(node["_target_"])
    except ValueError as error:
        return [f"{path}: {error}"]
    parameters = _parameters(target)
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
    return found


def _unknown(path: str, key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {path}.{close[0]}?" if close else f"it takes: {', '.join(names)}"
    return f"{path}.{key}: unknown option; {hint}"


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(target).parameters)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except NameError:  # an annotation imported under TYPE_CHECKING only: nothing to hold the value against
        return {}


def _type_problem(path: str, value: Any, wanted: Any) -> list[str]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    if wanted is Any or _holds_nodes(value):
        return []
    try:
        adapter = TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return []
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return [f"{path}: wanted {_name(wanted)}, got {value!r}"]
    except TypeError:
        return []
    return []


def _holds_nodes(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_nodes(item) for item in value)
    if isinstance(value, Mapping):
        return is_node(value) or any(_holds_nodes(item) for item in value.values())
    return False


def _name(wanted: Any) -> str:
    return wanted.__name__ if inspect.isclass(wanted) else str(wanted).replace("typing.", "")


def _trial(group: str, node: Mapping[str, Any]) -> list[str]:
    import torch

    try:
        with torch.device("meta"):
            build(node)
    except (ValueError, TypeError) as error:
        return [f"{group}: {error}"]
    return []


def unused_groups(config: Mapping[str, Any], used: list[str], optional: list[str]) -> list[str]:
    """A sentence for each group that holds a choice although the stage does not read it, and the reverse."""
    idle = [
        f"{group}: this stage does not use it"
        for group, node in config.items()
        if node is not None and group not in (*used, *optional)
    ]
    return idle + [f"{group}: this stage needs a choice of it" for group in used if config.get(group) is None]


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options that belong to no group."""
    from typing import Annotated

    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        seed: Annotated[int, Field(ge=0)]
        name: str
        run_dir: str
        init_from: str | None
        prompts: list[str] | None
        stage: dict[str, Any]

    try:
        Settings.model_validate(dict(settings))
    except ValidationError as error:
        return [_settings_line(item, list(Settings.model_fields)) for item in error.errors()]
    return []


def _settings_line(item: Any, known: list[str]) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        close = suggestion(path, known)
        return f"{path}: unknown option" + (f"; did you mean {close}?" if close else "")
    return f"{path}: {item['msg'].lower()}, got {item['input']!r}"


def suggestion(key: str, known: list[str]) -> str | None:
    """The known dotted key closest to a misspelt one."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return close[0]
    leaf = [name for name in known if name.split(".")[-1] == key.rsplit(".", maxsplit=1)[-1]]
    return leaf[0] if leaf else None


def dotted(value: Any, path: str = "") -> list[str]:
    """All dotted keys of a nested dict, inner nodes included."""
    if not isinstance(value, Mapping):
        return [path] if path else []
    inner = [
        name
        for key, item in value.items()
        if key not in RESERVED
        for name in dotted(item, f"{path}.{key}" if path else str(key))
    ]
    return ([path] if path else []) + inner
