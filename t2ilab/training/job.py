"""One run of a training stage from config to finished folder: what all stages do around their own few lines."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from t2ilab.averages.ema import EMA
from t2ilab.build import Config, build
from t2ilab.callbacks.checkpoint import order_in
from t2ilab.callbacks.evaluations import Evaluations
from t2ilab.callbacks.metrics import Metrics
from t2ilab.callbacks.mirror import show_files
from t2ilab.callbacks.previews import Previews
from t2ilab.callbacks.progress import Progress
from t2ilab.data.module import DataModule, check_same
from t2ilab.data.sets import DataSet
from t2ilab.data.source import RowProvider, Source
from t2ilab.export.manifest import MANIFEST, write_manifest, write_text
from t2ilab.files import whole_folder
from t2ilab.latents.base import Autoencoder
from t2ilab.pipeline import TextToImage
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import (
    CheckpointOptions,
    LoggerOptions,
    TrainerOptions,
    check_devices,
    device_of,
    prepare_process,
    settled,
)
from t2ilab.runs.meeting import meet
from t2ilab.runs.outcome import Interrupted
from t2ilab.runs.ranks import check_launched, is_first_process
from t2ilab.runs.record import FINISHED, finish_note
from t2ilab.runs.summary import summary
from t2ilab.signals import Stopped, handled, stop
from t2ilab.training.fit import accumulation, fit, start_from, start_line, to_go_on
from t2ilab.training.learner import Learner
from t2ilab.training.loggers import callbacks_of, loggers_in
from t2ilab.training.pace import Pace, what_helps
from t2ilab.training.reconstruction import Reconstruction, reconstruct
from t2ilab.training.start import Start
from t2ilab.training.threads import settle_threads

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Job:
    """The run folder, the options of the trainer, and the callbacks of a training run.

    Attributes:
        first: whether this process writes files and reports.
        seconds: training time over all starts of the run, without previews, evaluations and checkpoints.
        prepared: time from the last start to the first step, for data, networks, latents and texts.
    """

    def __init__(self, config: Config, run: RunDir) -> None:
        self.config, self.run = config, run
        self.first = is_first_process()
        self.trainer: TrainerOptions = settled(build(config["trainer"]))
        check_launched(self.trainer.world, self.trainer.num_nodes)
        check_devices(self.trainer)
        meet()
        self.checkpoints: CheckpointOptions = build(config["checkpoint"])
        self.ema: EMA = build(config["ema"])
        self.logger: LoggerOptions = build(config["logger"])
        self.metrics = Metrics(run.metrics, every=self.logger.every)
        self.seconds = self.prepared = 0.0
        self.loggers: list[Logger] = []
        self.started = time.time()
        prepare_process(self.trainer)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, config: Config, *, start: Start | None = None, inherited: Mapping[str, Any] = EMPTY
    ) -> Iterator[Job]:
        """The job of this config, its run folder held for the time being.

        Args:
            start: the model that the run starts from, whose files are read when all else has been checked.
            inherited: groups that follow from the options and the model that the run starts from; the folder's
                config.yaml says what was given, and which model.
        """
        run = RunDir(config["run_dir"])
        config = {**config, **start.noted} if start else config
        with run.claimed(), handled(stop):
            run.remember(config)
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            try:
                job = cls({**config, **inherited}, run)
                if start is not None:
                    _ = start.unchanged
                yield job
            except Stopped as stopped:
                raise Interrupted(
                    f"\nstopped before or after training, what is finished is kept; {to_go_on(run)}",
                    stopped.status,
                ) from None

    @cached_property
    def start(self) -> Path | None:
        """The checkpoint that this run goes on from; says so."""
        return start_from(self.run, self.trainer.max_steps)

    def finished(self) -> float | None:
        """What `close` was told, if this very run has come to its end before; says so."""
        note = finish_note(self.run.path, self.run.options)
        if note is None:
            _ = self.start  # what is wrong with the checkpoints is known before the data are read
            return None
        files = [self.run.path / name for name in note["files"]]
        print(
            f"this run is finished: {self.trainer.max_steps} steps (a larger trainer.max_steps trains on, "
            f"without {FINISHED} it is measured again)"
        )
        for file in files:
            print(f"{file.stem}: {self.run.relative(file)}", flush=True)
        return float(note["value"])

    def close(self, value: float) -> float:
        """Notes, as the last act of a run, that it is complete and what its stage returns."""
        made = (self.run.evaluation, self.run.export / MANIFEST, self.run.report)
        files = [str(file.relative_to(self.run.path)) for file in made if file.is_file()]
        note = {"value": value, "files": files, "config": self.run.options}
        write_text(self.run.path / FINISHED, json.dumps(note, indent=1))
        show_files(self.loggers, [file for file in made if file.is_file()], self.trainer.max_steps)
        return value

    def _rows_depend_on(self, data: DataSet) -> dict[str, Any]:
        """What else than their order, for the check on resume: data and the models that the run starts from."""
        parents = self.config.get("parents")
        start = {"init_from": " ".join(parent["digest"] for parent in parents)} if parents else {}
        return {"data": data.digest()} | start

    def check_data(self, data: DataSet) -> None:
        """Refuses to go on with other data than before, before anything of them is encoded.

        Raises:
            ValueError: listing what differs.
        """
        saved = None if self.start is None else order_in(self.start)
        if saved is not None:
            check_same(saved, data.order(self.config["seed"]).describe() | self._rows_depend_on(data))

    def common(self, data: DataSet) -> dict[str, Any]:
        """The arguments that every Learner takes."""
        return {
            "seed": self.config["seed"],
            "batch_size": data.batch_size,
            "optimizer": build(self.config["optimizer"]),
            "schedule": build(self.config["schedule"]),
            "clip": self.trainer.clip,
            "accumulate": self.trainer.accumulate,
        }

    def fit(
        self,
        stage: Learner,
        rows: RowProvider,
        data: DataSet,
        *,
        what: str,
        tokens: int,
        callbacks: list[Callback] | None = None,
    ) -> None:
        """Trains `stage` on `rows`; prints the start line first."""
        module = DataModule(
            rows,
            data.order(self.config["seed"]),
            accumulate=accumulation(stage, self.trainer),
            workers=data.workers,
            identity=self._rows_depend_on(data),
        )
        pace = self.say_start(stage, module, data, what=what, tokens=tokens) if self.first else None
        advice = partial(what_helps, self.trainer)
        progress = Progress(self.metrics, pace.slowest if pace else None, advice)
        own = callbacks_of(self.config.get("callbacks"))
        self.loggers = loggers_in(self.run, self.logger, wanted=bool(own))
        for logger in self.loggers:
            logger.log_hyperparams(dict(self.config))
        self.prepared = time.time() - self.started
        self.seconds = fit(
            stage,
            module,
            self.run,
            self.trainer,
            self.checkpoints,
            ema=self.ema,
            metrics=self.metrics,
            loggers=self.loggers,
            callbacks=[progress, *(callbacks or []), *own],
            log_every=self.logger.every,
            start=self.start,
        )

    def say_start(self, stage: Learner, module: DataModule, data: DataSet, *, what: str, tokens: int) -> Pace:
        """The start line: what, on what, how large, how long; settles the number of threads."""
        print(f"run folder: {self.run.relative(self.run.path)}; timing a few steps ...", flush=True)
        steps = self.trainer.max_steps
        pace = settle_threads(stage, module, self.run, self.trainer, self.ema)
        threads = pace.threads if device_of(self.trainer).type == "cpu" else None
        print(summary(self.config, precision=self.trainer.precision, threads=threads))
        print(
            start_line(
                what=what,
                on=data.summary(),
                network=stage.student,
                tokens=tokens,
                steps=steps,
                batch=data.batch_size,
                precision=self.trainer.precision,
                threads=threads,
                seconds=pace.mean * steps,
            ),
            flush=True,
        )
        return pace

    def say_data(self, data: DataSet) -> None:
        """Prints the data report and keeps it as `data_report.json`, if there is one."""
        report = data.report()
        if report and self.first:
            print(report.text(), flush=True)
            write_text(self.run.path / "data_report.json", json.dumps(report.to_dict(), indent=1))

    def say_reconstruction(self, source: Source, autoencoder: Autoencoder) -> Reconstruction:
        """Passes training images through the autoencoder; prints what it keeps, and draws the strip of the report.

        Raises:
            ValueError: it keeps less than the mean colour of each image does.
        """
        found = reconstruct(source, autoencoder)
        strip = self.run.relative(found.save(self.run.reconstructions))
        found.check(strip, inherited=bool(self.config.get("init_from")))
        print(f"{found.text()}: {strip}", flush=True)
        return found

    def previews(self, generate: TextToImage, prompts: list[str], *, every: int) -> Previews:
        """The callback that draws `prompts` while training."""

        def say(path: Path) -> None:
            print(f"\npreview: {self.run.relative(path)}", flush=True)

        return Previews(
            self.run.samples,
            generate,
            prompts=prompts,
            ema=self.ema,
            every=every,
            seed=self.config["seed"],
            say=say,
            paused=self.metrics.paused,
        )

    def evaluations(self, measure: Callable[[], dict[str, float]], *, every: int) -> Evaluations:
        """The callback that measures while training, and keeps the numbers."""

        def say() -> dict[str, float]:
            print("\nmeasuring ...", flush=True)
            return measure()

        return Evaluations(self.run.evaluations, say, ema=self.ema, every=every, paused=self.metrics.paused)

    def finish_network(
        self,
        kind: str,
        measured: dict[str, Any],
        save: Callable[[Path], object],
        *,
        parents: Sequence[dict[str, str]] = (),
    ) -> None:
        """Writes an export of kind autoencoder, encoder or reward: what `save` puts there, and the manifest."""
        facts = {
            "stage": self.config["stage"]["name"],
            "parents": list(parents),
            "config": {key: value for key, value in self.config.items() if key != "run_dir"},
            "steps": self.trainer.max_steps,
            "seconds": round(self.seconds, 3),
            "evaluation": measured,
        }
        with whole_folder(self.run.export) as folder:
            save(folder)
            write_manifest(folder, kind, facts)
        print(f"export: {self.run.relative(self.run.export)}")


Network = TypeVar("Network", bound=nn.Module)


def freeze(network: Network, device: torch.device) -> Network:
    """The network on a device, in evaluation mode, without gradients."""
    return network.to(device).eval().requires_grad_(False)
