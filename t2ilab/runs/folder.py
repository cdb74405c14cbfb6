"""A run's folder: one process at a time, one config for life, checkpoints that are found again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ilab.build import Config
from t2ilab.core.folders import expanded
from t2ilab.export.manifest import write_text
from t2ilab.runs.ranks import is_first_process
from t2ilab.runs.record import differences, digests, finish_note, recorded, trains

ENDLESS = ("Constant", "InverseSqrt")  # schedules that do not know how long a run will be
RESULTS = (
    "finished.json",
    "export/t2ilab.json",
    "evaluation.json",
    "checkpoints/*.ckpt",
    "checkpoints/*.damaged*",
    "export/shards/*.safetensors",
)
WORKING = (
    "metrics.csv",
    "evaluations.csv",
    "report.html",
    "data_report.json",
    "samples/*.png",
    "averages/*.safetensors",
)


class RunDir:
    """The folder of one run: `config.yaml metrics.csv evaluations.csv checkpoints/ samples/ export/ ...`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(expanded(str(path))).resolve()
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.reconstructions = self.path / "reconstructions.png"
        self.few_steps = self.path / "few_steps.png"
        self.averages = self.path / "averages"
        self.export = self.path / "export"
        self.metrics = self.path / "metrics.csv"
        self.evaluations = self.path / "evaluations.csv"
        self.evaluation = self.path / "evaluation.json"
        self.before = self.path / "before.json"
        self.changes = self.path / "changes.json"
        self.report = self.path / "report.html"
        self.machine = self.path / "machine.json"
        self.options: dict[str, Any] = {}  # plain values, once they are remembered

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

    def remember(self, config: Config) -> None:
        """Writes `config.yaml`, after `check`."""
        import yaml

        self.check(config)
        if is_first_process():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "config.yaml", yaml.safe_dump(self.options, sort_keys=False))

    def check(self, config: Config) -> None:
        """Holds what the folder tells of an earlier run, if it is that of one, against this config.

        Raises:
            ValueError: the folder belongs to something else, to another stage, to a run with other options (listing
                them), or to a trained run whose checkpoints are gone.
        """
        before, self.options = recorded(self.path), json.loads(json.dumps(config))
        if before is None:
            self._check_nobodys()
        else:
            self._check_same(before)
        if trains(config) and finish_note(self.path, config) is None:
            self.check_not_lost(before or config)

    def _check_nobodys(self) -> None:
        """Refuses a folder with files of the names that a run writes, of which nothing tells whose they are."""
        found = self._first_of((*RESULTS, *WORKING))
        if found:
            raise ValueError(
                f"run_dir={self.path} holds {found} and nothing that says with which options it was made: choose "
                "another run_dir, or put the config.yaml of that run back"
            )

    def _check_same(self, before: Config) -> None:
        """Refuses another stage, and other options where there is something that they would overwrite or continue."""
        was, stage = before["stage"]["name"], self.options["stage"]["name"]
        if was != stage:
            raise ValueError(
                f"run_dir={self.path} holds a run of stage={was}, which stage={stage} would overwrite: "
                "choose another run_dir"
            )
        images = () if trains(self.options) else ("samples/*.png",)
        if not self._first_of((*RESULTS, *images)):
            return
        parents, now = digests(before), digests(self.options)
        if parents != now and before.get("init_from") == self.options.get("init_from"):
            raise ValueError(
                f"init_from={self.options['init_from']} is not the model that the run in run_dir={self.path} began "
                "with (its digest differs): put the old one back to go on, or give another run_dir to start anew"
            )
        changes = differences(before, self.options)
        if changes:
            listing = "\n".join(f"  - {line}" for line in changes)
            raise ValueError(
                f"run_dir={self.path} holds a run with other options:\n{listing}\n"
                "give the same options to continue it, or another run_dir to start anew"
            )
        if trains(before) and "trainer" in before:
            self._say_new_length(before, self.options)

    def check_not_lost(self, before: Config) -> None:
        """Refuses to begin at step 0 over what a run made, if its checkpoints are gone.

        Args:
            before: the options that it was last trained with.
        """
        if any(path.stem.removeprefix("step_").isdigit() for path in self.checkpoints.glob("step_*.ckpt")):
            return
        found, steps = self._first_of(RESULTS), last_step(self.metrics)
        if not found and steps > before.get("checkpoint", {}).get("every", steps):
            found = f"metrics.csv with {steps} steps"
        if found:
            raise ValueError(
                f"run_dir={self.path} holds a run that was trained ({found}), and its checkpoints are gone: it "
                "cannot go on, and at step 0 it would overwrite what it made. Put step_*.ckpt back into its "
                "checkpoints/, or choose another run_dir (what it exported is still drawn and measured by init_from)"
            )

    def _first_of(self, patterns: tuple[str, ...]) -> str | None:
        """The first file of these names, as it is called in the folder."""
        found = (path for pattern in patterns for path in sorted(self.path.glob(pattern)))
        return next((str(path.relative_to(self.path)) for path in found), None)

    def _say_new_length(self, before: Config, now: Config) -> None:
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
        return from_here(path)


def from_here(path: Path) -> str:
    """A path from the current directory on; whole, if it lies elsewhere."""
    below = os.path.relpath(path)
    return str(path.absolute()) if below.startswith(os.pardir) else below


def last_step(metrics: Path) -> int:
    """The last step that a metrics.csv tells of, 0 if there is none."""
    lines = metrics.read_text(errors="replace").splitlines()[1:] if metrics.is_file() else []
    steps = [line.partition(",")[0] for line in lines]
    return max((int(step) for step in steps if step.isdigit()), default=0)
