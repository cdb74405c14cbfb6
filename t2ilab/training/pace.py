"""How long the steps of a run take: trial steps that leave no trace."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2ilab.averages.ema import EMA
from t2ilab.core.precision import autocast
from t2ilab.data.source import Rows
from t2ilab.optim.schedule_free import models
from t2ilab.runs.machine import TrainerOptions, device_of
from t2ilab.training.fit import accumulation
from t2ilab.training.learner import Learner

REPEATS = 4  # of a trial, the fastest counts; the first one also prepares memory
PATIENCE = 5.0  # seconds after which a trial is not repeated
CLOSE = 0.95  # one thread is taken if it needs less than this share of the time of all


@dataclass(frozen=True)
class Pace:
    """How fast a run is expected to be.

    Attributes:
        seconds: of an optimizer step, by the step at which it was tried; evenly spread over the run.
        threads: of torch, with which it was tried.
    """

    seconds: Mapping[int, float]
    threads: int

    @property
    def mean(self) -> float:
        """Seconds of a step, on average over the run."""
        return sum(self.seconds.values()) / len(self.seconds)

    def slowest(self, first: int, last: int) -> float:
        """The longest that a step from `first` to `last` was expected to take, whichever shape it has."""
        before = max((step for step in self.seconds if step <= first), default=min(self.seconds))
        after = min((step for step in self.seconds if step >= last), default=max(self.seconds))
        return max(seconds for step, seconds in self.seconds.items() if before <= step <= after)


def paces(
    stage: Learner,
    batches: Mapping[int, Rows],
    options: TrainerOptions,
    ema: EMA,
    *,
    threads: Sequence[int],
    fetching: float = 0.0,
) -> list[Pace]:
    """The pace with each number of threads, from trial steps of each shape and trial updates that leave no trace.

    Args:
        batches: one micro-batch of each of some steps, evenly spread over the run. Of those of one shape the last
            is tried: by its step all players of a method have usually come in.
        ema: the average of the weights; the trial updates a copy of it.
        fetching: seconds that a micro-batch takes until it is there.
    """
    device = device_of(options)
    stage.to(device).train()
    shapes = {step: _shapes(batch) for step, batch in batches.items()}
    lasts = {shapes[step]: _moved(stage, batch, device) for step, batch in batches.items()}
    parts = accumulation(stage, options)
    found, number = [], torch.get_num_threads()
    with no_trace(stage):
        optimizers, follower = stage.new_optimizers(), copy.deepcopy(ema)
        for count in threads:
            torch.set_num_threads(count)
            seconds = {shape: _step_seconds(stage, batch, options) for shape, batch in lasts.items()}
            update = _update_seconds(stage, optimizers, follower, device)
            whole = {shape: parts * (value + fetching) + update for shape, value in seconds.items()}
            found.append(Pace({step: whole[shape] for step, shape in shapes.items()}, count))
            stage.zero_grad(set_to_none=True)
    torch.set_num_threads(number)
    return found


def fastest(found: Sequence[Pace]) -> Pace:
    """The pace with the fewest seconds; where fewer threads gain less than 5 %, that with more."""
    best = max(found, key=lambda pace: pace.threads)
    for pace in found:
        if pace.mean < CLOSE * best.mean:
            best = pace
    return best


def what_helps(options: TrainerOptions) -> str:
    """What to look at when steps take much longer than the trial ones."""
    if device_of(options).type != "cpu":
        return (
            "see whether another program uses the device; if images are read too slowly, raise data.workers"
        )
    fewer = ", or stop and go on with trainer.threads=1" if torch.get_num_threads() > 1 else ""
    return (
        f"the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {torch.get_num_threads()} of them "
        f"wanted here; end other programs{fewer}"
    )


def rate(images_per_s: float) -> str:
    """Images per second with two digits at least."""
    return f"{images_per_s:.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"


@contextlib.contextmanager
def no_trace(stage: Learner) -> Iterator[None]:
    """Afterwards weights, buffers and torch's random numbers are what they were, and there are no gradients."""
    before = {name: value.to("cpu", copy=True) for name, value in stage.state_dict().items()}
    with torch.random.fork_rng():
        yield
    stage.load_state_dict(before)
    stage.zero_grad(set_to_none=True)


def _moved(stage: Learner, batch: Rows, device: torch.device) -> dict[str, Any]:
    """As the trainer hands it to the stage."""
    return stage.transfer_batch_to_device(stage.on_before_batch_transfer(batch, 0), device, 0)


def _shapes(batch: Rows) -> tuple[Any, ...]:
    return tuple((name, value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor))


def _step_seconds(stage: Learner, batch: Rows, options: TrainerOptions) -> float:
    def step() -> None:
        stage.zero_grad(set_to_none=True)
        with autocast(device_of(options), options.precision):
            stage.trial_step(batch).item()  # waits for the device

    return least_seconds(step)


def _update_seconds(
    stage: Learner, optimizers: list[torch.optim.Optimizer], ema: EMA, device: torch.device
) -> float:
    """Of clipping, the optimizers and the average, with the gradients of the last trial step."""

    def update() -> None:
        stage.trial_update(optimizers)
        ema.follow(stage.student, models(optimizers))
        if device.type != "cpu":
            torch.get_device_module(device).synchronize()

    return least_seconds(update)


def least_seconds(action: Callable[[], object]) -> float:
    """Seconds of the fastest of a few times; slow actions are tried once."""
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < PATIENCE:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)
