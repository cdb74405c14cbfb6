"""A run's folder: one process at a time, one config for life, checkpoints that are found again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ilab.core.folders import expanded
from t2ilab.manifest import write_text
from t2ilab.stages.ranks import is_first_process

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

ENDLESS = ("Constant", "InverseSqrt")  # schedules that do not know how long a run will be


class RunDir:
    """The folder of one run: `config.yaml metrics.csv evaluations.csv checkpoints/ samples/ export/ ...`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(expanded(str(path))).resolve()
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.reconstructions = self.path / "reconstructions.png"
        self.averages = self.path / "averages"
        self.export = self.path / "export"
        self.metrics = self.path / "metrics.csv"
        self.evaluations = self.path / "evaluations.csv"
        self.evaluation = self.path / "evaluation.json"
        self.before = self.path / "before.json"
        self.changes = self.path / "changes.json"
        self.report = self.path / "report.html"
        self.machine = self.path / "machine.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the folder for this process; the lock goes with the process, however that ends.

        Raises:
            ValueError: if another process holds it.
        """
        if not is_first_process():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise ValueError(
                    f"run_dir={self.path} is in use by another run ({file.read().strip() or 'unknown process'}); "
                    "wait for it or choose another run_dir"
                ) from error
            # the workers of a process that was killed live on for seconds: they must not hold the folder
            os.register_at_fork(after_in_child=file.close)
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield

    def remember(self, config: dict[str, Any]) -> None:
        """Writes `config.yaml`, or holds an earlier one against this config.

        Raises:
            ValueError: if the folder belongs to another stage, or to a run with other options, listing them.
        """
        import yaml

        path = self.path / "config.yaml"
        before = yaml.safe_load(path.read_text()) if path.is_file() else None
        stage = config["stage"]["name"]
        if before is not None and not (isinstance(before, dict) and isinstance(before.get("stage"), dict)):
            raise ValueError(
                f"run_dir={self.path} holds a config.yaml of something else: choose another run_dir"
            )
        if before is not None and before["stage"]["name"] != stage:
            raise ValueError(
                f"run_dir={self.path} holds a run of stage={before['stage']['name']}, which stage={stage} would "
                "overwrite: choose another run_dir"
            )
        if before is not None and any(self.checkpoints.glob("*.ckpt")):
            same_parents = _digests(before) == _digests(config)
            if not same_parents and before.get("init_from") == config.get("init_from"):
                raise ValueError(
                    f"init_from={config['init_from']} is not the model that the run in run_dir={self.path} began "
                    "with (its digest differs): put the old one back to go on, or give another run_dir to start anew"
                )
            changes = [
                line
                for line in differences(before, config)
                if not (same_parents and _digests(config) and line.startswith("init_from:"))  # it was moved
            ]
            if changes:
                listing = "\n".join(f"  - {line}" for line in changes)
                raise ValueError(
                    f"run_dir={self.path} holds a run with other options:\n{listing}\n"
                    "give the same options to continue it, or another run_dir to start anew"
                )
            self._say_new_length(before, config)
        if is_first_process():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(path, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))

    def _say_new_length(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Says so if a rate that fell towards the old end goes on with that of the new length, which is higher."""
        was, steps = before["trainer"]["max_steps"], now["trainer"]["max_steps"]
        kind = str((now.get("schedule") or {}).get("_target_", "")).rpartition(".")[2]
        if was != steps and kind not in ENDLESS and is_first_process():
            print(
                f"note: trainer.max_steps was {was} and is {steps} now; schedule {kind} goes on with the rates of "
                "the new length, as if the run had been planned so",
                flush=True,
            )

    def relative(self, path: Path) -> str:
        """`path` as one would type it from the current directory."""
        return os.path.relpath(path)


def _digests(config: dict[str, Any]) -> list[str]:
    """What the models are known by that a run starts from."""
    return [parent["digest"] for parent in config.get("parents", [])]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The options that differ and matter, as `key: was A, now B`."""
    old, new = dict(_leaves(before, "")), dict(_leaves(json.loads(json.dumps(now)), ""))
    keys = [key for key in {**old, **new} if not _free(key)]
    return [
        f"{key}: was {old.get(key)!r}, now {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)
    ]


def _free(key: str) -> bool:
    """Whether an option may change; the length that a term's weight is planned for is trainer.max_steps, again."""
    return key.partition(".")[0] in FREE or key in FREE_KEYS or key.endswith(".weight.total")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
