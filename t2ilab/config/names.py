"""Dotted names of options, and which one was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from t2ilab.build import RESERVED

PATHS = ("path", "tokenizer_path", "run_dir", "init_from", "dir")  # options that name a place on the disk


def is_path_option(name: str) -> bool:
    """Whether the option with this dotted name, or this item of one, takes a path."""
    return name.rpartition(".")[2].lstrip("+").partition("[")[0] in PATHS


def suggestion(key: str, known: list[str]) -> str | None:
    """The known dotted key closest to a misspelt one."""
    leaves = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    found = [*leaves, *close] if "." not in key else [*close, *leaves]
    return found[0] if found else None


def dotted(value: object, path: str = "") -> list[str]:
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


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of nested dicts with their dotted names; a list counts as one value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
