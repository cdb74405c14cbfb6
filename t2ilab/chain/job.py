"""`stage=chain`: runs one after the other, each an ordinary run in a process and a folder of its own.

A step is done when its run has finished and neither its config nor its parents' exports nor the code have changed
since; then it is skipped. So the same command, given again, goes on wherever it was stopped. Nothing is deleted: a
folder that a changed step cannot go on in is renamed.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from t2ilab.build import Config
from t2ilab.chain.lifeline import run_to_its_end
from t2ilab.chain.report import write_chain_report
from t2ilab.chain.steps import Step, export_digest, planned
from t2ilab.export.manifest import write_text
from t2ilab.runs.folder import RunDir, differences
from t2ilab.runs.outcome import Interrupted
from t2ilab.runs.ranks import launched
from t2ilab.signals import Stopped, handled, stop
from t2ilab.training.job import FINISHED

RECORD = "chain.json"
STOPS = (130, 143)  # exit statuses of a run that was asked to stop


def run(config: Config) -> float | None:
    """Goes through the steps and writes lifecycle.html; returns what the last step returned."""
    if launched() > 1:
        raise ValueError(
            "a chain is started once; each of its runs starts trainer.devices processes of its own: give the command "
            "without torchrun or srun"
        )
    folder = RunDir(config["run_dir"])
    try:
        with folder.claimed(), handled(stop):
            steps = planned(config)
            for step in steps:  # a fault of the last one does not wait for all others
                for parent in step.parents.values():  # a folder that an option names has to be there
                    parent.mkdir(parents=True, exist_ok=True)
                step.config()
            folder.remember(config)
            record = Record(folder.path / RECORD)
            for number, step in enumerate(steps, 1):
                go_through(step, record, f"step {number} of {len(steps)}, {step.name}")
            report = write_chain_report(folder.path / "lifecycle.html", steps, record.steps, config)
    except Stopped as stopped:
        raise Interrupted(_to_go_on(folder), stopped.status) from None
    print(f"life cycle: {folder.relative(report)}")
    return _value(steps[-1].folder)


class Record:
    """What the chain remembers of its steps, in `chain.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.steps: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); rename it, and no step counts as done") from error

    def note(self, name: str, **facts: Any) -> None:
        self.steps[name] = self.steps.get(name, {}) | facts
        write_text(self.path, json.dumps(self.steps, indent=1))


def go_through(step: Step, record: Record, title: str) -> None:
    """Skips a step that is done, goes on with one that was stopped, begins any other.

    Raises:
        ValueError: the run failed.
        Interrupted: it was stopped.
    """
    identity = step.identity()
    known = record.steps.get(step.name, {})
    same = {key: known.get(key) == value for key, value in identity.items()}
    digest = export_digest(step.folder)
    if all(same.values()) and digest is not None and digest == known.get("export"):
        print(f"== {title}: done before, nothing it depends on has changed", flush=True)
        return
    if why := _cannot_go_on(step, same, known.get("export"), digest):
        print(f"== {title}: {why}; the earlier run is kept as {_set_aside(step.folder).name}", flush=True)
        record.steps.pop(step.name, None)
    command = shlex.join(["python", "-m", "t2ilab", *step.command])
    record.note(step.name, **identity, export=None, command=command)
    print(f"== {title}: {command}", flush=True)
    began = time.perf_counter()
    status = run_to_its_end(step.command)
    seconds = record.steps[step.name].get("seconds", 0.0) + time.perf_counter() - began
    record.note(step.name, seconds=round(seconds, 1))
    if status in STOPS:
        raise Interrupted("the chain stops with it: the same command goes on", status)
    if status:
        raise ValueError(
            f"step {step.name} ended with status {status}, see above; mend it and give the same command again: "
            "what is done is not done again"
        )
    record.note(step.name, export=export_digest(step.folder))


def _cannot_go_on(step: Step, same: dict[str, bool], noted: str | None, digest: str | None) -> str:
    """Why the run in a step's folder is not this one; empty if it is, or if there is none."""
    if not step.folder.is_dir() or not any(step.folder.iterdir()):
        return ""
    if not same["parents"]:
        return "what it starts from has changed"
    if noted is not None and noted != digest:
        return "its export is not the one that it made"
    if noted is not None and not same["package"]:
        return "it was made by another version of the code"
    return "its options have changed" if _other_options(step) else ""


def _other_options(step: Step) -> bool:
    """Whether the run's options differ in what a run cannot change on its way."""
    import yaml

    path = step.folder / "config.yaml"
    if not path.is_file():
        return False  # the run itself says what it makes of such a folder
    before = yaml.safe_load(path.read_text())
    free = (*step.parents, "parents")  # what it starts from is compared by digest
    return any(line.split(":")[0].split(".")[0] not in free for line in differences(before, step.config()))


def _set_aside(folder: Path) -> Path:
    """Renames a folder to the first free `<name>.<number>`."""
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(other)


def _to_go_on(folder: RunDir) -> str:
    return f"\nstopped; to go on: give the same command again with run_dir={folder.path}"


def _value(folder: Path) -> float | None:
    """What the run of a folder returned; None for a stage that returns no number."""
    path = folder / FINISHED
    return float(json.loads(path.read_text())["value"]) if path.is_file() else None
