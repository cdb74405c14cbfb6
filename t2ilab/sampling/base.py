"""What samplers share: the call, the path on the time grid as plain numbers, and the noise."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import Guidance, GuidedDenoiser, NoGuidance
from t2ilab.core.path import Path, at_least_float32
from t2ilab.core.prediction import Estimate, Prediction, System
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition, Trajectory
from t2ilab.sampling.grid import TimeGrid

_LEAST_DETERMINANT = 1e-6
_NOISE_OF_STREAM = 4096  # numbers per row in one stream, of at most
_STEPS_OF_STREAM = 16  # steps; both decide which numbers a step gets
_NOISE_AT_ONCE = 2**16  # numbers in one draw: a hundred operations, for one step or for several


@dataclass(frozen=True)
class Table:
    """The path on the grid, one plain number per time.

    Attributes:
        t, alpha, sigma: times, shares of data and noise.
        clock: the variable that Euler and Heun step in, t for most paths.
        rate: dt / dclock, so that dx / dclock = velocity * rate.
        diffusion: g^2 of the forward SDE, infinite without data.
        systems: how to read the network output.
    """

    t: list[float]
    alpha: list[float]
    sigma: list[float]
    clock: list[float]
    rate: list[float]
    diffusion: list[float]
    systems: list[System]

    @classmethod
    def of(cls, path: Path, prediction: Prediction, times: Tensor) -> Table:
        """Evaluates path and prediction at float64 times."""
        rows = zip(*(values.tolist() for values in prediction.system(path, times)), strict=True)
        return cls(
            times.tolist(),
            path.alpha(times).tolist(),
            path.sigma(times).tolist(),
            path.clock(times).tolist(),
            (1.0 / path.dclock(times)).tolist(),
            path.squared_diffusion(times).tolist(),
            [System(*row) for row in rows],
        )


@dataclass
class Run:
    """One sampling run: what a step may look at, and what it may leave for the next one.

    Attributes:
        denoise: the guided denoiser.
        table: the path on the grid.
        rng: for noise, or None.
        log_probs: log-densities of the stochastic steps so far, (B,) each; None if nobody asked.
        previous: memory of multistep samplers.
    """

    denoise: GuidedDenoiser
    table: Table
    rng: RowRng | None
    log_probs: list[Tensor] | None
    previous: list[Tensor] = field(default_factory=list)
    _drawn: tuple[int, Tensor] | None = None

    def estimate(self, i: int, x: Tensor) -> Estimate:
        """The guided estimate at x (B, C, H, W) and time i."""
        estimate = self.denoise(x, self.table.t[i])
        estimate.numbers = self.table.systems[i]
        return estimate

    def is_clean(self, i: int) -> bool:
        """Whether no noise is left at time i."""
        return self.table.sigma[i] == 0.0

    def add_noise(self, i: int, mean: Tensor, std: float) -> Tensor:
        """mean + std z with the normal numbers of step i; notes ln N(x; mean, std^2)."""
        if std == 0.0 or self.rng is None:
            return mean
        noise = self.noise(i, mean)
        if self.log_probs is not None:
            constant = math.log(std) + 0.5 * math.log(2.0 * math.pi)
            self.log_probs.append((-0.5 * noise.square() - constant).flatten(1).sum(1))
        return mean + std * noise

    def noise(self, i: int, like: Tensor) -> Tensor:
        """The normal numbers of step i; which they are depends on i and the shape of a row alone.

        One stream holds those of several steps, and several streams are drawn at once, the rows together as many
        numbers as a cache holds.
        """
        assert self.rng is not None
        steps = min(max(1, _NOISE_OF_STREAM // like[0].numel()), _STEPS_OF_STREAM)
        if self._drawn is None or not self._drawn[0] <= i < self._drawn[0] + self._drawn[1].shape[1]:
            first, last = i // steps, (len(self.table.t) - 2) // steps
            most = max(1, _NOISE_AT_ONCE // (steps * like.numel()))
            streams = range(first, min(first + most, last + 1))
            draw = self.rng.normal_of_each(
                streams, "sampler", steps, *like.shape[1:], dtype=like.dtype
            ).flatten(1, 2)
            self._drawn = (first * steps, draw)
        return self._drawn[1][:, i - self._drawn[0]]


class Sampler(ABC):
    """Integrates from noise at the first time of its grid to the last one.

    Args:
        grid: the times.
    """

    def __init__(self, grid: TimeGrid) -> None:
        self.grid = grid

    @abstractmethod
    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        """The state at time i + 1 from the state x (B, C, H, W) at time i."""

    @property
    def is_stochastic(self) -> bool:
        """Whether it needs an rng."""
        return False

    def at(self, steps: int) -> Sampler:
        """The same sampler with another number of steps."""
        other = copy.deepcopy(self)
        other.grid.steps = steps
        return other

    def check(self, path: Path, prediction: Prediction) -> None:
        """Refuses a grid that asks for an estimate where the network output does not determine one."""
        times = self.grid.times(path)[:-1]
        least = prediction.determinant(path, times).abs()
        if bool((least < _LEAST_DETERMINANT).any()):
            where = float(times[least.argmin()])
            raise ValueError(
                f"prediction={type(prediction).__name__} on path={type(path).__name__} says nothing about "
                f"the data at t = {where:g}: set sampler.grid.start below 1, for instance 0.98"
            )

    def check_steps(self, path: Path, guidance: Guidance) -> None:
        """Refuses a rule under which no step does anything."""
        steps = len(self.grid.times(path)) - 1
        if guidance.still_steps >= steps:
            raise ValueError(
                f"guidance.zero_steps={guidance.still_steps} leaves nothing of the {steps} steps of "
                "sampler.grid.steps"
            )

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x1: Tensor,
        cond: Condition | None = None,
        null: Condition | None = None,
        *,
        guidance: Guidance | None = None,
        rng: RowRng | None = None,
        keep_states: bool = False,
    ) -> Trajectory:
        """Samples one batch, without gradients. The state is float32 (float64 for float64 noise).

        Args:
            x1: standard normal noise, (B, C, H, W); it is scaled to the noise of the first time here.
            cond: B texts, or None for a denoiser without.
            null: the empty text, one row or B, for guidance.
            guidance: the rule; None for the conditional model. Its `still_steps` first steps leave x as it is.
            rng: one row per sample, for samplers that add noise; the number of the step is folded in.
            keep_states: return all states, and the log-probabilities of the stochastic steps.
        """
        run, x = self._begin(denoiser, x1, cond, null, guidance=guidance, rng=rng)
        run.log_probs = [] if keep_states else None
        states = []
        for state in self._states(run, x, guidance, grad_last=0):
            x = state
            if keep_states:
                states.append(x)
        log_probs = torch.stack(run.log_probs) if run.log_probs else None
        return Trajectory(x, states, log_probs, run.denoise.nfe)

    def walk(
        self,
        denoiser: Denoiser,
        x1: Tensor,
        cond: Condition | None = None,
        null: Condition | None = None,
        *,
        guidance: Guidance | None = None,
        rng: RowRng | None = None,
        grad_last: int = 0,
    ) -> Iterator[Tensor]:
        """The states one after the other, from the noise to the result; arguments as for a call.

        Args:
            grad_last: the last so many steps keep their graph, where gradients are enabled; the state that enters
                them has none (DRaFT-K, arXiv 2309.17400).
        """
        if grad_last < 0:
            raise ValueError(f"grad_last must not be negative, got {grad_last}")
        run, x = self._begin(denoiser, x1, cond, null, guidance=guidance, rng=rng)
        yield from self._states(run, x, guidance, grad_last=grad_last)

    def _begin(
        self,
        denoiser: Denoiser,
        x1: Tensor,
        cond: Condition | None,
        null: Condition | None,
        *,
        guidance: Guidance | None,
        rng: RowRng | None,
    ) -> tuple[Run, Tensor]:
        """The run and its first state, everything checked."""
        if self.is_stochastic and (rng is None or len(rng) != len(x1)):
            raise ValueError(f"sampler={type(self).__name__} adds noise: it needs an rng with {len(x1)} rows")
        path = denoiser.path
        self.check(path, denoiser.prediction)
        times = self.grid.times(path)
        rng = None if rng is None or not self.is_stochastic else rng.to(x1.device)
        guidance = guidance or NoGuidance()
        self.check_steps(path, guidance)
        denoise = guidance.bind(denoiser, cond, null)
        run = Run(denoise, Table.of(path, denoiser.prediction, times), rng, None)
        return run, at_least_float32(x1) * _initial_std(path, run.table.sigma[0])

    def _states(self, run: Run, x: Tensor, guidance: Guidance | None, *, grad_last: int) -> Iterator[Tensor]:
        still, steps = 0 if guidance is None else guidance.still_steps, len(run.table.t) - 1
        x = x.detach()
        yield x
        for i in range(steps):
            if i >= still:
                with torch.set_grad_enabled(torch.is_grad_enabled() and i >= steps - grad_last):
                    x = self.step(run, i, x)
            yield x


def _initial_std(path: Path, sigma: float) -> float:
    """The prior's std, less in proportion where the grid begins below t = 1."""
    return path.prior_std * sigma / float(path.sigma(torch.ones((), dtype=torch.float64)))
