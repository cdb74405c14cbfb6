"""The check of what a config gives outside its groups, and of groups that a stage does not read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from t2ilab.build import Config
from t2ilab.config.names import suggestion


def unused(
    config: Config,
    used: Collection[str],
    optional: Collection[str],
    inherited: Collection[str] = (),
) -> list[str]:
    """A sentence for each group or setting that is given although the stage does not read it, and the reverse.

    Args:
        inherited: groups that a model decides from which the stage starts.
    """
    why = dict.fromkeys(inherited, "the model of init_from decides it: omit it")
    idle = [
        f"{name}: {why.get(name, 'this stage does not use it')}"
        for name, value in config.items()
        if value is not None and name not in (*used, *optional)
    ]
    return idle + [f"{name}: this stage needs {_needed(name)}" for name in used if config.get(name) is None]


SETTINGS = {
    "seed": "a whole number from 0 to 4294967295",
    "name": "a text",
    "run_dir": "a folder",
    "init_from": "a run or export folder",
    "chain": "overrides for one step of a chain, chain.sft=[trainer.max_steps=100]",
    "runs": "a list of run folders, 'runs=[A,B]'",
    "prompts": "a list of texts, prompts='[\"a red circle above a blue star\"]'",
}


def _needed(name: str) -> str:
    return f"{SETTINGS[name]}" if name in SETTINGS else f"a choice, {name}=..."


def settings_problems(settings: Mapping[str, Any], *, several: bool = False) -> list[str]:
    """What is wrong with the options that belong to no group.

    Args:
        several: whether init_from may be a list, of adapters.
    """
    fits = {
        "seed": lambda value: isinstance(value, int) and 0 <= value < 2**32,
        "chain": lambda value: value is None or _is_lines_by_name(value),
        "runs": lambda value: value is None or _is_texts(value),
        "prompts": lambda value: value is None or _is_texts(value),
        "init_from": lambda value: value is None or isinstance(value, str) or (several and _is_texts(value)),
        "run_dir": lambda value: isinstance(value, str) and bool(value.strip()),
    }
    found = [
        f"{name}: this option is needed: {wanted}"
        for name, wanted in SETTINGS.items()
        if name not in (*settings, "chain", "runs")  # a config saved by an earlier version lacks it
    ]
    for name, value in settings.items():
        if name not in SETTINGS:
            close = suggestion(name, list(SETTINGS))
            found.append(f"{name}: unknown option" + (f"; did you mean {close}?" if close else ""))
        elif not fits.get(name, lambda value: isinstance(value, str))(value):
            found.append(f"{name}: wanted {SETTINGS[name]}, got {value!r}{_quoted(name, value)}")
    return found


def _quoted(name: str, value: object) -> str:
    """How a text is written that was given as something else, or what to do with what was given."""
    if name == "prompts" and isinstance(value, str):
        return f" (this text: prompts={shlex.quote(json.dumps([value], ensure_ascii=False))})"
    if name == "init_from" and isinstance(value, list):
        return "; this stage starts from one model: stage=export makes one of a model and its adapters"
    return f" (as a text: {name}=\"'{value}'\")" if isinstance(value, int | float) and name != "seed" else ""


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_lines_by_name(value: object) -> bool:
    return isinstance(value, Mapping) and all(lines == [] or _is_texts(lines) for lines in value.values())
