"""What a run folder tells of the options it was made with, and which of them may change when it is used again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2ilab.build import Config, current_name
from t2ilab.config.names import is_path_option, leaves

# What may differ when a run is continued: none of it changes a loss that was already computed.
FREE = (
    "run_dir",
    "command",
    "parents",
    "prompts",
    "checkpoint",
    "eval",
    "logger",
    "callbacks",
    "sampler",
    "guidance",
)
FREE_KEYS = (
    "trainer.max_steps",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accumulate",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.threads",
    "trainer.profiler",
    "data.workers",
    "stage.preview_every",
    "stage.evaluate_every",
)
PARTS_OF_A_STEP = ("trainer.devices", "trainer.num_nodes", "trainer.accumulate")  # in which its rows are seen
PLANNED = ".weight.total"  # of a term's weight: the length of the run, again
# Terms that compare the rows of a part of a step: another number of parts is another loss.
BETWEEN_ROWS = ("Dispersive",)
# What may differ when a stage that only reads an export writes into the same folder again.
FREE_READING = (
    "run_dir",
    "command",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.threads",
    "stage.batch_size",
    "stage.copies",
    "stage.trusted",
)
# What leaves no trace in what a run ends with.
PASSING = ("callbacks", "run_dir", "command", "trainer", "checkpoint", "logger")
FINISHED = "finished.json"
MANIFEST = "export/t2ilab.json"


def recorded(folder: Path) -> dict[str, Any] | None:
    """The options that the folder was made with, of config.yaml or else of what a run leaves beside it, if any.

    Raises:
        ValueError: config.yaml is there and is not that of a run.
    """
    if (config := _config_file(folder)) is not None:
        return config
    for name in (FINISHED, MANIFEST):
        if (config := _noted(folder / name)) is not None:
            return config
    return _of_checkpoints(folder / "checkpoints")


def _config_file(folder: Path) -> dict[str, Any] | None:
    import yaml

    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text()) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        config = "something else"
    if config is None:
        return None
    if not (isinstance(config, dict) and isinstance(config.get("stage"), dict) and "name" in config["stage"]):
        raise ValueError(f"run_dir={folder} holds a config.yaml of something else: choose another run_dir")
    return config


def _noted(path: Path) -> dict[str, Any] | None:
    """The options in a JSON file that a run ends with; a file of another kind tells none."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    config = note.get("config") if isinstance(note, dict) else None
    return config if isinstance(config, dict) and isinstance(config.get("stage"), dict) else None


def _of_checkpoints(folder: Path) -> dict[str, Any] | None:
    if not any(folder.glob("step_*.ckpt")):
        return None
    from t2ilab.callbacks.checkpoint import newest_first, options_in

    told = (options_in(path) for path in newest_first(folder))
    return next((options for options in told if options), None)


def finish_note(folder: Path, config: Config) -> dict[str, Any] | None:
    """What a run noted at its end, if these very options ended it and all its files are there.

    Options that change what is measured or drawn at the end make it another run; so does a missing file.
    """
    try:
        note = json.loads((folder / FINISHED).read_text())
        before, files = note["config"], [folder / name for name in note["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    changed = differences(
        before, config, free=lambda key: _top(key) in PASSING and key != "trainer.max_steps"
    )
    return note if not changed and all(file.is_file() for file in files) else None


def differences(before: Config, now: Config, *, free: Callable[[str], bool] | None = None) -> list[str]:
    """The options that differ and matter, as `key: was A, now B`; a path as it is typed, key='B'.

    Args:
        free: says of a dotted key whether it may differ; None for what its stage leaves free.
    """
    now = json.loads(json.dumps(now))
    old, new = dict(leaves(before)), dict(leaves(now))
    free = free or _free_of(before)
    homes = (before.get("run_dir"), now.get("run_dir"))
    if digests(before) and digests(before) == digests(now):  # the model that it started from may have moved
        old, new = ({**side, "init_from": None, "parents": None} for side in (old, new))
    return [
        f"{key}: was {old.get(key)!r}, now {_typed(key)}{new.get(key)!r}"
        for key in {**old, **new}
        if not free(key) and not _same(key, old.get(key), new.get(key), homes)
    ]


def _typed(key: str) -> str:
    """The option's name with its equals sign where the value is a path: what has to be quoted is shown in quotes."""
    return f"{key}=" if is_path_option(key) else ""


def digests(config: Config) -> list[str]:
    """What the models are known by that a run starts from."""
    return [parent["digest"] for parent in config.get("parents") or []]


def trains(config: Config) -> bool:
    """Whether the stage of these options makes checkpoints."""
    return bool(config.get("checkpoint"))


def _free_of(config: Config) -> Callable[[str], bool]:
    """Which options may change."""
    if not trains(config):
        return lambda key: key in FREE_READING
    terms = config.get("terms") or {}
    kinds = {str(node.get("_target_", "")).rpartition(".")[2] for node in terms.values()}
    fixed = PARTS_OF_A_STEP if kinds & set(BETWEEN_ROWS) else ()
    keys = [key for key in FREE_KEYS if key not in fixed]
    return lambda key: _top(key) in FREE or key in keys or key.endswith(PLANNED)


def follows_length(key: str) -> bool:
    """Whether an option says for how many steps the run is planned, which no continued run may change."""
    return key.endswith(".total") and not key.endswith(PLANNED)


def _same(key: str, old: object, new: object, homes: tuple[str | None, str | None]) -> bool:
    """Whether two values of an option mean the same: also a path that moved along with its run folder."""
    if old == new:
        return True
    if key == "prompts":  # further ones are drawn beside those of before
        return isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    return _same_path(key, old, new, homes) if os.sep in old + new else current_name(old) == current_name(new)


def _same_path(key: str, old: str, new: str, homes: tuple[str | None, str | None]) -> bool:
    was, now = Path(old).expanduser(), Path(new).expanduser()
    if now.exists() and was.exists():
        return was.samefile(now)
    if key == "init_from" and was.name == now.name and now.exists():
        return True
    first, second = homes
    if not (was.is_absolute() and now.is_absolute() and first and second):
        return False
    return os.path.relpath(was, first) == os.path.relpath(now, second)


def _top(key: str) -> str:
    return key.partition(".")[0]
