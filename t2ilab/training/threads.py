"""How many threads a run trains with: timed before the first step and kept for later starts.

More threads are not always faster: where other programs use the processors too, every parallel piece of work waits
for its last thread. So a run on a CPU tries one thread and all of them, and takes the faster number for good: it
decides how sums are rounded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from t2ilab.averages.ema import EMA
from t2ilab.data.module import DataModule
from t2ilab.export.manifest import write_text
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import TrainerOptions, device_of
from t2ilab.runs.record import FINISHED
from t2ilab.training.learner import Learner
from t2ilab.training.pace import Pace, fastest, least_seconds, paces, rate

MOMENTS = 16  # of a run whose batches are looked at, to say how long it will take


def settle_threads(
    stage: Learner, module: DataModule, run: RunDir, trainer: TrainerOptions, ema: EMA
) -> Pace:
    """Times a few steps with the threads in question, takes the faster ones and notes them for a later start.

    A run that goes on keeps the number that it had, since sums of other threads round otherwise.
    """
    if (kept := kept_threads(run, trainer)) is not None:
        torch.set_num_threads(kept)
    moments = sorted({trainer.max_steps * part // MOMENTS for part in range(MOMENTS)})
    batches = {step: module.first_of(step, world=trainer.world) for step in moments}
    fetching = 0.0 if module.workers else least_seconds(lambda: module.fetch_again(batches[0]))
    threads = threads_to_try(trainer) if kept is None else [kept]
    found = paces(stage, batches, trainer, ema, threads=threads, fetching=fetching)
    if len(found) > 1:
        print(thread_line(found, stage.batch_size), flush=True)
    pace = fastest(found)
    torch.set_num_threads(pace.threads)
    rates = {str(tried.threads): round(stage.batch_size / tried.mean, 3) for tried in found}
    write_text(run.machine, json.dumps({"threads": pace.threads, "images_per_s": rates}, indent=1))
    return pace


def kept_threads(run: RunDir, trainer: TrainerOptions) -> int | None:
    """The threads that an earlier start of a run has settled on, unless `trainer.threads` says otherwise.

    Raises:
        ValueError: the note about it cannot be read.
    """
    begun = (run.path / FINISHED).is_file() or any(run.checkpoints.glob("*.ckpt"))
    if trainer.threads or trainer.world > 1 or not (begun and run.machine.is_file()):
        return None
    try:
        return max(1, int(json.loads(run.machine.read_text())["threads"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run.machine} is broken ({error}): delete it, or say the number with trainer.threads=..."
        ) from error


def threads_to_try(options: TrainerOptions) -> list[int]:
    """One and all, in the one process of a run on a CPU for which no number is given; else those there are."""
    now = torch.get_num_threads()
    alone = options.world == 1 and device_of(options).type == "cpu"
    return [1, now] if alone and not options.threads and now > 1 else [now]


def thread_line(found: Sequence[Pace], batch: int) -> str:
    """What the trial of several numbers of threads has shown."""
    rates = ", ".join(f"{pace.threads}: {rate(batch / pace.mean)} images/s" for pace in found)
    return f"threads tried: {rates}; taken: {fastest(found).threads} (trainer.threads=... fixes the number)"
