"""Overrides as people type them: paths with any character, and what is no option.

Hydra's grammar gives a meaning to `( ) [ ] { } , = : ' "` and others. A value that it cannot read, or a path that it
would read as something else, is taken as the text that it is, so that folders may have any name.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from t2ilab.config.groups import all_groups, conf_folder, key_of
from t2ilab.config.names import is_path_option
from t2ilab.core.folders import expanded

OPTION = re.compile(r"\+{0,2}[A-Za-z_][\w-]*(\.[\w-]+)*")
SEVERAL = ("init_from", "runs")  # options of several folders, in a list
LEFT_OUT = {"reward=null": "reward=none"}  # Hydra wants a name where others say that there is none
KEPT = {  # groups on whose choice others depend, so that they cannot be taken away
    "stage": "this is needed: a choice, stage=pretrain",
    "data": "this is needed: a choice, data=NAME; a stage that takes the data of its model has none by itself",
    "debug": "there is none unless it is chosen: omit ~debug",
}
# of a stage: what it is, not how it is run
ITS_OWN = ("_target_", "name", "job", "uses", "optional", "inherits")


def as_typed(overrides: list[str], *, sweep: bool) -> list[str]:
    """The overrides with quotes around values that are meant as texts.

    Args:
        sweep: several values of an option, with commas between them, are several runs (`-m`).
    """
    return own_debug([_as_typed(override, sweep) for override in overrides])


def own_debug(overrides: list[str]) -> list[str]:
    """`debug=tiny` is `debug=tiny_encoder` for stage=encoder, where there is such a choice.

    Networks and data differ too much between these stages for one list of values.
    """
    stages = [item.removeprefix("stage=") for item in overrides if item.startswith("stage=")]
    if not stages:
        return overrides
    known = {f"debug={name}" for name in _choices("debug")}
    return [own if (own := f"{item}_{stages[-1]}") in known else item for item in overrides]


@functools.cache
def _choices(group: str) -> frozenset[str]:
    return frozenset(file.stem for file in (conf_folder() / group).glob("*.yaml"))


def _as_typed(override: str, sweep: bool) -> str:
    if override in LEFT_OUT:
        return LEFT_OUT[override]
    name, equals, value = override.partition("=")
    if not (equals and OPTION.fullmatch(name)) or key_of(override) in all_groups():
        return override
    if name.startswith("hydra.") and value.startswith("~"):  # Hydra makes these folders itself
        value = expanded(value)
        override = f"{name}={value}"
    read = _read(override)
    if name in SEVERAL and (items := _listed(value)) and not Path(value).is_dir():
        return override if _is_texts(read) else f"{name}=[{','.join(quoted(_bare(item)) for item in items)}]"
    if read is None and name.startswith("chain.") and (items := _listed(value)):
        return f"{name}=[{','.join(map(quoted, items))}]"
    if read is None or (is_path_option(name) and not _is_text(read, sweep)):
        return f"{name}={quoted(value)}"
    return override


def _listed(value: str) -> list[str]:
    """The items of a list of texts that Hydra would want in quotes, `[a=1,b=[2,3]]`; [] of anything else."""
    if not (value.startswith("[") and value.endswith("]")):
        return []
    items, depth, quote = [""], 0, ""
    for letter in value[1:-1]:
        quote = ("" if letter == quote else quote) if quote else letter if letter in "\"'" else ""
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if depth < 0:  # several lists, for a sweep
            return []
        if letter == "," and not quote and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]


def _bare(item: str) -> str:
    """An item of a list without the quotes that were typed around it."""
    return item[1:-1] if len(item) > 1 and item[0] == item[-1] in ("'", '"') else item


def quoted(value: str) -> str:
    """The text in the quotes of Hydra's grammar, double ones if it holds none."""
    quote = Quote.single if '"' in value else Quote.double
    return QuotedString(text=value, quote=quote).with_quotes()


def check_overrides(overrides: list[str]) -> None:
    """Refuses what composes to something that nothing can be made of.

    Raises:
        ValueError: a group is given something else than names of choices; or what a stage is is changed.
    """
    for override in overrides:
        key = key_of(override)
        group = key.partition("@")[0]
        head, _, rest = key.partition(".")
        if head == "stage" and rest.partition(".")[0] in ITS_OWN:
            raise ValueError(
                f"{key}: this is what the stage is, no option of it; a stage of your own is a file stage/NAME.yaml "
                "in a folder named by --config-dir"
            )
        if override.startswith("~") and key in KEPT:
            raise ValueError(f"{key}: {KEPT[key]}")
        read = _read(override) if group in all_groups() else None
        if read is None or read.is_delete() or read.is_sweep_override():
            continue
        value = read.value()
        names = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, str) for item in names):
            raise ValueError(f"{key}: wanted the name of a choice, {key}=NAME, got {value!r}")


def _is_text(read: Override, sweep: bool) -> bool:
    if read.is_delete():
        return True
    if read.is_sweep_override():
        return sweep
    value: Any = read.value()
    return value is None or isinstance(value, str)


def _is_texts(read: Override | None) -> bool:
    """Whether it is a list of texts."""
    value: Any = None if read is None or read.is_sweep_override() else read.value()
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@functools.lru_cache(maxsize=1024)
def _read(override: str) -> Override | None:
    """What Hydra's grammar makes of an override; None if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError):
        return None
