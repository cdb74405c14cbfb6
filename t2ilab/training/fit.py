"""Training a stage inside its run folder: trainer, callbacks, resume, and what happens when it is stopped."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from t2ilab.averages.ema import EMA
from t2ilab.callbacks.averaging import Averaging
from t2ilab.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, newest_whole, set_aside, step_of
from t2ilab.callbacks.interrupt import Interrupt
from t2ilab.callbacks.metrics import Metrics
from t2ilab.callbacks.progress import duration
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import CheckpointOptions, TrainerOptions, device_of
from t2ilab.runs.outcome import Interrupted
from t2ilab.runs.ranks import is_first_process, launched
from t2ilab.training.learner import Learner
from t2ilab.training.loggers import profiler_in
from t2ilab.training.processes import strategy_of

LIGHTNING_PRECISIONS: dict[str, Literal["bf16-mixed", "32-true"]] = {"bf16": "bf16-mixed", "fp32": "32-true"}


def fit(
    stage: Learner,
    data: LightningDataModule,
    run: RunDir,
    options: TrainerOptions,
    checkpoints: CheckpointOptions,
    *,
    ema: EMA,
    metrics: Metrics,
    loggers: list[Logger],
    callbacks: list[Callback],
    log_every: int = 50,
    start: Path | None = None,
) -> float:
    """Trains up to `options.max_steps`, from the checkpoint `start` (see `start_from`) or from step 0.

    Args:
        callbacks: come after those that count and before those that save.
        log_every: steps between two numbers that Lightning's own callbacks log.

    Returns:
        Seconds of training, all starts of the run together, without previews, evaluations and checkpoints.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, or if a callback stopped it, when the state is saved.
        ValueError: a callback or profiler cannot work here.
    """
    interrupt = Interrupt()
    checkpoint = Checkpoint(
        run.checkpoints,
        every=checkpoints.every,
        keep=checkpoints.keep,
        options=run.options,
        paused=metrics.paused,
    )
    own = [Averaging(ema), metrics, *callbacks, interrupt, checkpoint]
    trainer = _trainer(stage, run, options, callbacks=own, loggers=loggers, log_every=log_every)
    with _calm(), interrupt.listening():
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=start, weights_only=True)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            raise ValueError(f"callbacks or trainer.profiler: {error}") from error
    stage.to(device_of(options))  # where its encoders are; Lightning leaves it on the CPU
    check_complete(stage, run, options.max_steps, signal_number=interrupt.signal_number)
    return metrics.seconds


def _trainer(
    stage: Learner,
    run: RunDir,
    options: TrainerOptions,
    *,
    callbacks: list[Callback],
    loggers: list[Logger],
    log_every: int,
) -> Trainer:
    """Lightning's trainer without what this package does itself: checkpoints, progress, the order of the data."""
    return Trainer(
        accelerator=options.accelerator if options.accelerator != "auto" else device_of(options).type,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=strategy_of(options),
        precision=LIGHTNING_PRECISIONS[options.precision],
        max_steps=options.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation(stage, options),
        callbacks=callbacks,
        logger=loggers or False,
        log_every_n_steps=log_every,
        profiler=profiler_in(run.path, options.profiler),
        plugins=[AtomicCheckpointIO(), *([] if launched() else [LightningEnvironment()])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=run.path,
    )


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Without the warnings of Lightning, which are about what we do on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield


def check_complete(stage: Learner, run: RunDir, max_steps: int, *, signal_number: int | None) -> None:
    """Says in the first process why a run has ended before its last step, if it has.

    Raises:
        Interrupted: after a signal, or if a callback stopped it.
    """
    if not is_first_process():
        return
    if signal_number is not None:
        raise Interrupted(
            f"\nstopped at step {stage.steps_done} of {max_steps}; "
            f"everything is saved in {run.relative(run.path)}\n{to_go_on(run)}",
            128 + signal_number,
        )
    if stage.steps_done < max_steps:
        raise Interrupted(
            f"\na callback stopped the run at step {stage.steps_done} of {max_steps}; everything is saved in "
            f"{run.relative(run.path)}\n{to_go_on(run)}",
            0,
        )


def start_from(run: RunDir, max_steps: int) -> Path | None:
    """The checkpoint to go on from, if any. Newer ones that are not whole are named and set aside.

    Raises:
        ValueError: it is past `max_steps`; or there are checkpoints and none is whole.
    """
    run.check_not_lost(run.options)
    found = newest_whole(run.checkpoints)
    latest = found.path
    if found.damaged and latest is None:
        listing = "\n".join(f"  - {each.path.name} {each.reason}" for each in found.damaged)
        raise ValueError(
            f"run_dir={run.path} has no checkpoint that is whole:\n{listing}\ncopy them anew from where they came "
            "from, or choose another run_dir to start at step 0; nothing here was changed"
        )
    if is_first_process():
        for each in found.damaged:
            aside = set_aside(each.path)
            print(
                f"warning: {each.path.name} {each.reason}: it is not used and lies as {aside.name}",
                flush=True,
            )
        if found.note:
            print(f"warning: {found.note}", flush=True)
        if latest:
            print(f"continuing from {run.relative(latest)}", flush=True)
    if latest and step_of(latest) > max_steps:
        raise ValueError(
            f"run_dir={run.path} has been trained for {step_of(latest)} steps already, more than "
            f"trainer.max_steps={max_steps}; choose another run_dir for a shorter run"
        )
    return latest


def to_go_on(run: RunDir) -> str:
    """What a stopped run tells its user."""
    return f"to go on: give the same command again with run_dir={run.path}"


def accumulation(stage: Learner, options: TrainerOptions) -> int:
    """Micro-batches that the trainer gathers for a step; a stage with several players gathers its own."""
    return options.accumulate if stage.automatic_optimization else 1


def count(number: float) -> str:
    """`1.9 M` for 1900000."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def start_line(
    *,
    what: str,
    on: str,
    network: torch.nn.Module,
    tokens: int,
    steps: int,
    batch: int,
    precision: str,
    threads: int | None,
    seconds: float,
) -> str:
    """One line that says what is about to happen and how long it will take.

    Args:
        threads: of the processor that computes; None where a device does.
    """
    by = "" if threads is None else f" on {threads} thread{'s' * (threads > 1)}"
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return (
        f"training {what} on {on}: {count(parameters)} parameters, {tokens} tokens per image, "
        f"{steps} steps of {batch} images in {precision}{by}, about {duration(seconds)}"
    )
