"""What can be chosen: the groups, the choices of one, and what each is."""

from __future__ import annotations

import re
import textwrap
from itertools import takewhile

import yaml

from t2ilab.config.groups import INSIDE, MIXINS, all_groups, conf_folder
from t2ilab.config.names import suggestion

WIDTH = 100  # columns of a terminal


def show(asked: list[str]) -> str:
    """The groups, or the choices of those that are asked for, the default marked with a star.

    Raises:
        ValueError: there is no such group.
    """
    if not asked:
        return _groups()
    for group in asked:
        if group not in all_groups():
            close = suggestion(group, all_groups())
            meant = f"; did you mean {close}?" if close else ""
            raise ValueError(f"there is no group {group}{meant}\nthe groups are: {', '.join(all_groups())}")
    return "\n\n".join(_choices(group) for group in asked)


def defaults() -> dict[str, str]:
    """The choice of every group in the default run; groups without one are absent."""
    listed = yaml.safe_load((conf_folder() / "config.yaml").read_text())["defaults"]
    chosen = {name: value for item in listed if isinstance(item, dict) for name, value in item.items()}
    return {name: value for name, value in chosen.items() if name in all_groups() and isinstance(value, str)}


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with the first sentence of the comment on top of its file."""
    files = sorted((conf_folder() / group).glob("*.yaml"))
    return {file.stem: _comment(file.read_text()) for file in files}


def _comment(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    comment = " ".join(
        line.lstrip("# ").strip() for line in takewhile(lambda line: line.startswith("#"), lines)
    )
    return re.split(r"\. (?=[A-Z])", comment, maxsplit=1)[0]


def _groups() -> str:
    chosen, width = defaults(), max(map(len, all_groups()))
    lines = ["python -m t2ilab show GROUP tells what each choice is; * is the default", ""]
    for group in all_groups():
        names = [f"{name}*" if name == chosen.get(group) else name for name in choices(group)]
        lines += _entry(f"{group:{width}}", ", ".join(names))
    return "\n".join(lines)


def _choices(group: str) -> str:
    chosen, width = defaults().get(group), max(map(len, choices(group)))
    lines = [f"{_how_to_choose(group)}{'' if chosen else '; no choice by default'}"]
    for name, comment in choices(group).items():
        lines += _entry(f"{'*' if name == chosen else ' '} {name:{width}}", comment)
    return "\n".join(lines)


def _how_to_choose(group: str) -> str:
    if group in INSIDE:
        return f"{group}@{INSIDE[group]}=NAME"
    if group == "terms":
        return "terms=[NAME,...]"
    return f"{group}=NAME" + (" (changes several options at once)" if group in MIXINS else "")


def _entry(head: str, rest: str) -> list[str]:
    return textwrap.wrap(
        rest, WIDTH, initial_indent=f"{head}  ", subsequent_indent=" " * (len(head) + 2)
    ) or [head]
