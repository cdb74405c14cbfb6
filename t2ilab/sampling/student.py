"""How a distilled student draws: few steps at the times that it was trained at, which are a part of the model.

With x0^ and eps^ of the student at (x, t), and the next time r,

    one_step   x = x0^
    renoise    x = alpha_r x0^ + sigma_r z with new noise z         students of consistency, of distributions
    ode        x = alpha_r x0^ + sigma_r eps^                       progressive, rectified flow: DDIM, Euler
    flow_map   x = x - (t - r) u(x, t, r)                           networks that are told r ("until")

The last r is 0. On the linear path `ode` is diffusers' FlowMatchEulerDiscreteScheduler and `renoise` its
FlowMatchLCMScheduler, both with `sigmas=times`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from t2ilab.core.path import Path
from t2ilab.core.prediction import Prediction
from t2ilab.sampling.base import Run, Sampler
from t2ilab.sampling.grid import TimeGrid

Kind = Literal["one_step", "renoise", "ode", "flow_map"]


class ExplicitTimes(TimeGrid):
    """The times of all evaluations as they are given, and 0 at the end.

    Args:
        given: falling, in (0, 1].
    """

    def __init__(self, given: Sequence[float]) -> None:
        falling = all(before > after for before, after in pairwise(given))
        if not given or not falling or not 0 < given[-1] <= given[0] <= 1:
            raise ValueError(
                f"sampler.times must be falling times in (0, 1], such as [1.0, 0.75, 0.5, 0.25], got {list(given)}"
            )
        super().__init__(len(given))
        self.given = tuple(float(time) for time in given)

    def times(self, path: Path) -> Tensor:
        return torch.tensor([*self.given, 0.0], dtype=torch.float64)


class Student(Sampler):
    """The sampler of a distilled network; the formulas of its kinds are in the module's head.

    Args:
        kind: one_step, renoise, ode or flow_map.
        times: of the evaluations, falling from (mostly) 1.
    """

    grid: ExplicitTimes

    def __init__(self, kind: Kind, times: Sequence[float]) -> None:
        super().__init__(ExplicitTimes(times))
        if kind not in get_args(Kind):
            raise ValueError(f"sampler.kind must be one of {', '.join(get_args(Kind))}, got {kind}")
        if kind == "one_step" and len(times) != 1:
            raise ValueError(f"sampler.kind=one_step takes one time, sampler.times=[1.0], got {list(times)}")
        self.kind: Kind = kind

    @property
    def is_stochastic(self) -> bool:
        return self.kind == "renoise" and self.grid.steps > 1

    def at(self, steps: int) -> Student:
        """With its own times where there are as many, else with times that divide the range as these do.

        Where these do not say (one), evenly. A one-step student is drawn as an ODE with several.
        """
        own = torch.tensor([*self.grid.given, 0.0], dtype=torch.float64)
        kind = "ode" if self.kind == "one_step" and steps > 1 else self.kind
        if steps == self.grid.steps:
            return self
        places = torch.linspace(0, len(own) - 1, steps + 1, dtype=torch.float64)[:-1]
        before = places.floor().long()
        times = torch.lerp(own[before], own[before + 1], places - before)
        return Student(kind, times.tolist())

    def check(self, path: Path, prediction: Prediction) -> None:
        try:
            super().check(path, prediction)
        except ValueError as error:
            raise ValueError(
                str(error).replace("set sampler.grid.start below", "let sampler.times begin below")
            ) from None

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        table = run.table
        if self.kind == "flow_map":
            run.denoise.told(until=table.t[i + 1])
            return x.sub(run.estimate(i, x).velocity(), alpha=table.t[i] - table.t[i + 1])
        estimate = run.estimate(i, x)
        mean = table.alpha[i + 1] * estimate.x0
        if run.is_clean(i + 1):
            return mean
        if self.kind == "renoise":
            return run.add_noise(i, mean, table.sigma[i + 1])
        return mean.add(estimate.eps, alpha=table.sigma[i + 1])
