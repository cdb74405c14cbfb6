"""What one sees while it trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from t2ilab.callbacks.learning import Learning, learning
from t2ilab.callbacks.metrics import Metrics

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
WATCHED_SECONDS, WATCHED_STEPS = 20.0, 10  # the least over which steps are held against what was announced


class Progress(Callback):
    """Step, loss, images/s of training and time left, since this start of the run.

    Says once if steps take twice as long as was announced, on the median of some while, so that a preview or a
    checkpoint between two steps counts for nothing; it changes nothing.

    Args:
        metrics: knows the last loss and the time of training.
        announced: seconds that a step from one to another was said to take at most; None for nothing said.
        advice: what to look at where steps are slow.
    """

    def __init__(
        self,
        metrics: Metrics,
        announced: Callable[[int, int], float] | None = None,
        advice: Callable[[], str] = str,
    ) -> None:
        self.metrics, self.announced, self.advice = metrics, announced, advice
        self._start = self._shown = self._last = 0.0
        self._first, self._trained = 0, 0.0
        self._recent: list[float] = []  # seconds of the steps since the rate was looked at

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start = self._shown = self._last = time.perf_counter()
        self._first, self._trained = learning(module).steps_done, self.metrics.seconds

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        learner = learning(module)
        if not (learner.step_finished and trainer.is_global_zero):
            return
        now, terminal = time.perf_counter(), sys.stdout.isatty()
        self._watch(now, learner)
        last = learner.steps_done == trainer.max_steps
        if not last and now - self._shown < (TERMINAL_SECONDS if terminal else LOG_SECONDS):
            return
        self._shown = now
        done = learner.steps_done - self._first
        left = (trainer.max_steps - learner.steps_done) * (now - self._start) / done
        speed = done * learner.batch_size / (self.metrics.seconds - self._trained)
        line = self._line(learner, trainer.max_steps, speed, left)
        print(f"\r{line}" if terminal else line, end="\n" if last or not terminal else "", flush=True)

    def _watch(self, now: float, learner: Learning) -> None:
        """Holds the steps of the last while against what was announced; says so once if they take twice as long."""
        self._recent.append(now - self._last)
        self._last = now
        count = len(self._recent)
        if self.announced is None or count < WATCHED_STEPS or sum(self._recent) < WATCHED_SECONDS:
            return
        expected = self.announced(learner.steps_done - count, learner.steps_done)
        took, self._recent = statistics.median(self._recent), []
        if took > 2 * expected:
            self.announced = None
            print(
                f"\nnote: {learner.batch_size / took:.3g} images/s now, {learner.batch_size / expected:.3g} were "
                f"announced: {self.advice()}",
                flush=True,
            )

    def _line(self, learner: Learning, steps: int, speed: float, left: float) -> str:
        filled = int(24 * learner.steps_done / steps)
        loss = self.metrics.last.get("train/loss")
        shown = "loss   ...  " if loss is None else f"loss {loss:.4f}"
        return (
            f"[{'#' * filled}{'.' * (24 - filled)}] step {learner.steps_done}/{steps}  {shown}  "
            f"{speed:5.0f} images/s  {duration(left)} left "
        )


def duration(seconds: float) -> str:
    """`3:05` for 185 seconds, `1:02:03` for 3723."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ticker(what: str, *, ends: bool = True) -> Callable[[int, int], None]:
    """Says how much of something is made: on one line of a terminal, elsewhere at both ends and every LOG_SECONDS.

    The time left follows from what was made since the first call, so that what is there already does not count.

    Args:
        ends: False for what is often made quickly and needs no line then.
    """
    began = shown = time.perf_counter()
    first: int | None = None

    def tick(done: int, total: int) -> None:
        nonlocal began, shown, first
        now, terminal = time.perf_counter(), sys.stdout.isatty()
        due = now - shown >= LOG_SECONDS or (ends and (first is None or done == total))
        if first is None:
            began, first = now, done
        if not (terminal or due):
            return
        shown, line = now, f"{what}: {done}/{total}"
        if first < done < total and now - began > 1:
            line += f", about {duration((now - began) / (done - first) * (total - done))} left"
        if terminal:
            print(f"\r{line:<72}", end="\n" if done == total else "", flush=True)
        else:
            print(line, flush=True)

    return tick
