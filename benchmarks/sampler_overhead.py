"""What samplers and the counter-based noise cost over the bare model: python benchmarks/sampler_overhead.py

The model is one multiplication, timed alone and subtracted. One thread, float32, 8 latents of 8 x 8 x 8.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG
from t2ilab.core.path import Linear
from t2ilab.core.prediction import EDM, V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Euler, Heun
from t2ilab.sampling.sde import EulerMaruyama
from t2ilab.sampling.vp import DDIM, DDPM

STEPS, ROWS, SHAPE = 50, 8, (8, 8, 8)


class Model(nn.Module):
    def forward(
        self, x: Tensor, time: Tensor, cond: Condition | None, taps: Sequence[Any] = ()
    ) -> tuple[Tensor, dict[Any, Tensor]]:
        return x * 0.1, {}


def microseconds(function: Callable[[], Any], repeats: int = 31) -> tuple[float, float]:
    """Best and median of many calls; the best is what an idle machine needs."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1e6)
    return min(times), statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    x1, rng = torch.randn(ROWS, *SHAPE), RowRng(0, 0, torch.arange(ROWS), ROWS)
    cond = Condition(torch.zeros(ROWS, 4, 16), torch.ones(ROWS, 4, dtype=torch.bool))
    model, t = Model(), torch.rand(ROWS)
    bare, _ = microseconds(lambda: [model(x1, t, cond) for _ in range(STEPS)])
    print(f"{'setting':44s} {'best':>8s} {'median':>8s}  us per step over the bare model")
    settings = [
        ("Euler, velocity", Euler(Grid(STEPS)), Velocity(), None),
        ("Euler, velocity, CFG (doubled batch)", Euler(Grid(STEPS)), Velocity(), CFG(3.0)),
        ("Heun, velocity", Heun(Grid(STEPS // 2)), Velocity(), None),
        ("DPM-Solver++(2M), velocity", DPMSolverPP2M(Grid(STEPS)), Velocity(), None),
        ("DPM-Solver++(2M), v", DPMSolverPP2M(Grid(STEPS)), V(), None),
        ("DPM-Solver++(2M), EDM", DPMSolverPP2M(Grid(STEPS)), EDM(), None),
        ("DPM-Solver++(2M) with noise, velocity", DPMSolverPP2M(Grid(STEPS), eta=1.0), Velocity(), None),
        (
            "DPM-Solver++(2M) with noise, velocity, CFG",
            DPMSolverPP2M(Grid(STEPS), eta=1.0),
            Velocity(),
            CFG(2.0),
        ),
        ("Euler-Maruyama, velocity", EulerMaruyama(Grid(STEPS)), Velocity(), None),
        ("DDIM, v", DDIM(Grid(STEPS)), V(), None),
        ("DDPM, v, with noise", DDPM(Grid(STEPS)), V(), None),
    ]
    for name, sampler, prediction, guidance in settings:
        denoiser = Denoiser(model, Linear(), prediction)
        best, median = microseconds(
            lambda s=sampler, d=denoiser, g=guidance: s(d, x1, cond, cond[:1], guidance=g, rng=rng)
        )
        print(f"{name:44s} {(best - bare) / STEPS:8.1f} {(median - bare) / STEPS:8.1f}")
    large = RowRng(0, 0, torch.arange(64), 64)
    for name, function in (
        ("64 x 512 normals", lambda: large.normal("noise", *SHAPE)),
        ("64 times", lambda: large.uniform("time")),
    ):
        best, median = microseconds(function)
        print(f"{name:44s} {best:8.0f} {median:8.0f}  us per draw")


if __name__ == "__main__":
    main()
