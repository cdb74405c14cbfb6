"""What the folder of a run tells without its model: options, numbers, curves, and which runs are the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ilab.config.names import leaves
from t2ilab.eval.curves import Column, read_metrics
from t2ilab.eval.result import Evaluation

NAMES = ("run_dir", "command", "name", "parents")  # options that say what a run is called, not what it is
INNER = tuple(f"stage.{name}" for name in ("_target_", "uses", "optional", "inherits", "job"))  # of the stage
OF_THE_MODEL = ("autoencoder", "conditioner", "model", "path", "prediction", "sampler", "guidance")
TIMES_OF_THE_MODEL = ("stage.time_scale", "stage.time_offset")
TIMES = ("train/images_per_s", "train/seconds")  # of the machine: two equal runs differ in them
MOST = 26  # characters of a name beside a curve


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it.

    Attributes:
        name: what it is called in tables and beside curves.
        options: its config by dotted names, a class by its name alone; None for an empty list as for no choice.
        evaluation: None where it was not measured, or is of a stage with measures of its own.
        value: what the stage returned at its end; None if it has not come to it.
        columns: metrics.csv and evaluations.csv.
    """

    name: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    value: float | None = None
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The last step of which there is a row."""
        return max((int(column.step[-1]) for column in self.columns.values() if len(column.step)), default=0)

    @property
    def inherited(self) -> tuple[str, ...]:
        """The groups that this run takes from the model of `init_from`, so that its config leaves them out."""
        later = self.options.get("init_from") is not None
        return tuple(group for group in OF_THE_MODEL if later and self.options.get(group, "") is None)

    @property
    def preview(self) -> Path | None:
        """The newest grid of images drawn while training."""
        return max(self.folder.glob("samples/step_*.png"), default=None)


def read_run(folder: Path, name: str = "") -> Run:
    """Reads a run folder.

    Raises:
        ValueError: it is none, or its config.yaml is damaged.
    """
    import yaml

    path = folder / "config.yaml"
    if not path.is_file():
        why = (
            "it holds no config.yaml"
            if folder.is_dir()
            else "it is a file"
            if folder.exists()
            else "it is not there"
        )
        raise ValueError(f"{folder} is no run folder: {why}")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("stage"), dict):
        raise ValueError(f"{path} is not that of a run")
    columns: dict[str, Column] = {}
    for log in ("metrics.csv", "evaluations.csv"):
        columns |= read_metrics(folder / log) if (folder / log).is_file() else {}
    own = {group: _without_copies(node, config) for group, node in config.items()}
    plain = {key: _short(value) if key.endswith("_target_") else value for key, value in leaves(own)}
    options = {key: None if value == [] else value for key, value in plain.items()}
    return Run(name or folder.name, folder, options, evaluation_in(folder), _value(folder), columns)


def _without_copies(node: object, config: Mapping[str, Any]) -> object:
    """A group of a config without whole other groups that it mentions, as losses do the times: these stand once."""
    if not isinstance(node, Mapping):
        return node
    return {
        key: _without_copies(value, config)
        for key, value in node.items()
        if not (isinstance(value, Mapping) and value and value == config.get(key))
    }


def short_names(folders: Sequence[Path]) -> list[str]:
    """The parts of the paths in which they differ, at most 26 characters each; numbered if that leaves two alike."""
    parts = [folder.resolve().parts for folder in folders]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    while min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1 and len(parts) > 1:
        parts = [part[:-1] for part in parts]
    names = ["/".join(part) if len(parts) > 1 else part[-1] for part in parts]
    names = [name if len(name) <= MOST else "..." + name[3 - MOST :] for name in names]
    twice = len(set(names)) < len(names)
    return [f"{number} {name}" for number, name in enumerate(names, 1)] if twice else names


def shortened(name: str) -> str:
    """A name as it stands beside a curve."""
    return name if len(name) <= MOST else name[: MOST - 3] + "..."


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, with the value of each; None for one that a run lacks.

    Left out: what only names a run.
    """
    keys = dict.fromkeys(key for run in runs for key in run.options)
    found = {}
    for key in keys:
        if key.partition(".")[0] in NAMES or key in INNER:
            continue
        values = [run.options.get(key) for run in runs]
        if any(value != values[0] for value in values):
            found[key] = values
    return found


def chosen(runs: Sequence[Run], options: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of `options` in which the runs that set them differ, not only one that takes them from its model."""
    found = {}
    for key, values in options.items():
        group = "model" if key in TIMES_OF_THE_MODEL else key.partition(".")[0]
        own = [value for run, value in zip(runs, values, strict=True) if group not in run.inherited]
        if any(value != own[0] for value in own):
            found[key] = values
    return found


def is_seed(key: str) -> bool:
    """Whether an option is a seed: runs that differ in nothing else are repetitions."""
    return key.rpartition(".")[2] == "seed"


def same_runs(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Names of runs that are the same one: equal options but for names, or equal losses at every step they logged."""
    by_options: dict[str, list[str]] = {}
    by_losses: dict[str, list[str]] = {}
    for run in runs:
        options = {
            key: value
            for key, value in run.options.items()
            if value is not None and key.partition(".")[0] not in NAMES
        }
        by_options.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(run.name)
        losses = {
            name: (column.step.tolist(), column.value.tolist())
            for name, column in run.columns.items()
            if name.startswith("train/") and name not in TIMES
        }
        if losses:
            by_losses.setdefault(json.dumps(losses, sort_keys=True), []).append(run.name)
    groups = [tuple(names) for found in (by_options, by_losses) for names in found.values() if len(names) > 1]
    return list(dict.fromkeys(groups))


def text_of(value: object) -> str:
    """The value of an option in a table."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _short(target: Any) -> str:
    return str(target).rpartition(".")[2]


def evaluation_in(folder: Path) -> Evaluation | None:
    """What the run measured at its end; None if it measured nothing of an `Evaluation`."""
    path = folder / "evaluation.json"
    try:
        return Evaluation.load(path) if path.is_file() else None
    except (ValueError, KeyError, TypeError):  # that of a stage with measures of its own
        return None


def _value(folder: Path) -> float | None:
    try:
        note: Mapping[str, Any] = json.loads((folder / "finished.json").read_text())
        return float(note["value"])
    except (OSError, ValueError, KeyError, TypeError):  # the run has not come to its end
        return None
