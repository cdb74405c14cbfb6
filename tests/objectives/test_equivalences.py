"""The tables of docs/objectives.md: which losses are equal, up to which weight, by the real objectives.

Every network here knows the same thing, a fixed guess of x0 as a function of x / alpha and sigma / alpha, and states
it in its own words, on its own path. Two losses are compared at the same noise level, with the same data and noise.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as File

import pytest
import torch

from t2ilab.core import weighting as weigh
from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear, Path, Trig, VPCosine, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from t2ilab.core.timestep import CosMap, LogitNormal, LogNormal, TimestepSampler, Uniform
from t2ilab.core.types import Batch
from t2ilab.objectives.base import Regression
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.score_matching import ScoreMatching
from tests.oracles import loss_at, oracle, texts

DOCUMENT = (File(__file__).parents[2] / "docs/objectives.md").read_text()
INNER = Uniform(0.05, 0.95)  # away from the ends, where an objective may refuse what has no bound
T = torch.linspace(0.06, 0.94, 45, dtype=torch.float64)
LEVELS = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000


def guess(x, alpha, sigma, cond):
    """What every network believes: wrong, smooth, and less wrong where there is less noise."""
    level, clear = sigma / alpha, alpha**2 / (alpha**2 + sigma**2)
    x0 = clear * x / alpha + (1 - clear) * torch.tanh(0.5 + x / (alpha + sigma) + 0.3 * torch.cos(level))
    return x0, (x - alpha * x0) / sigma


@dataclass(frozen=True)
class Loss:
    """An objective with the network it is bound to."""

    objective: Regression
    path: Path
    prediction: Prediction

    def at(self, t):
        """The loss at each of many times, (n,), of one image with one noise."""
        x0, eps = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        rows = len(t)
        self.objective.bind(oracle(guess, self.path, self.prediction))
        batch = Batch(x0.expand(rows, -1, -1, -1), texts(rows), texts(1))
        return loss_at(self.objective, batch, eps.expand(rows, -1, -1, -1), t)

    def expected(self, weight=None):
        """The mean over the objective's own times, by the midpoint rule in their levels."""
        t = self.objective.timestep.quantile(LEVELS)
        loss = self.at(t)
        return float((loss if weight is None else weight(t) * loss).mean())


def flow(path: Path, timestep: TimestepSampler = INNER, weighting=None) -> Loss:
    return Loss(FlowMatching(timestep, weighting), path, Velocity())


def diffusion(prediction: Prediction, path: Path, timestep: TimestepSampler = INNER, weighting=None) -> Loss:
    return Loss(Diffusion(timestep, weighting), path, prediction)


def score(path: Path, timestep: TimestepSampler = INNER, likelihood: bool = False) -> Loss:
    return Loss(ScoreMatching(timestep, likelihood=likelihood), path, Eps())


VP, SD, D = VPLinear(), Discrete(0.00085, 0.012, power=2.0), 0.5
POINTWISE: dict[str, tuple[Loss, Callable, Loss]] = {  # name: left, weight as a function of left's t, right
    "velocity-eps": (flow(Linear()), lambda t: 1 / (1 - t) ** 2, diffusion(Eps(), Linear())),
    "velocity-x0": (flow(Linear()), lambda t: 1 / t**2, diffusion(X0(), Linear())),
    "velocity-edm": (flow(Linear()), lambda t: 1 / (t**2 + (1 - t) ** 2), diffusion(EDM(1.0), Linear())),
    "velocity-v": (flow(Trig()), lambda t: (math.pi / 2) ** 2, diffusion(V(), Trig())),
    "v-eps": (diffusion(V(), VP), lambda t: 1 / VP.alpha(t) ** 2, diffusion(Eps(), VP)),
    "v-x0": (diffusion(V(), VP), lambda t: 1 + VP.log_snr(t).exp(), diffusion(X0(), VP)),
    "score-eps": (score(VP), lambda t: 1.0, diffusion(Eps(), VP)),
    "score-score": (diffusion(Score(), VP), lambda t: 1 / VP.sigma(t) ** 2, score(VP)),
    "likelihood-eps": (
        score(VP, likelihood=True),
        lambda t: VP.squared_diffusion(t) / (2 * VP.sigma(t) ** 2),
        diffusion(Eps(), VP),
    ),
    "edm-x0": (
        diffusion(EDM(D), VE()),
        lambda t: (VE().sigma(t) ** 2 + D**2) / (VE().sigma(t) * D) ** 2,
        diffusion(X0(), VE()),
    ),
    "edm-path": (diffusion(EDM(D), VE()), lambda t: 1.0, diffusion(EDM(D), Linear())),
    "eps-path": (diffusion(Eps(), SD), lambda t: 1.0, diffusion(Eps(), Linear())),
    "min-snr": (
        diffusion(Eps(), SD, weighting=weigh.MinSNR(5.0)),
        lambda t: 1.0,
        flow(Linear(), weighting=weigh.MinSNR(5.0)),
    ),
}


def all_of(path: Path, low: float, high: float) -> Uniform:
    """Uniform times between two log SNRs, from `high` down to `low`."""
    ends = path.time_of_log_snr(torch.tensor([high, low], dtype=torch.float64)).tolist()
    return Uniform(*ends)


def length(loss: Loss) -> float:
    return loss.objective.timestep.high - loss.objective.timestep.low


WHOLE, BELL = Uniform(), LogitNormal(0.4, 0.8, uniform_share=0.1)
ON_LINEAR, ON_COSINE = (all_of(path, -6.0, 6.0) for path in (Linear(), VPCosine()))
EXPECTED: dict[str, tuple[Loss, Callable | float, Loss]] = {  # name: left, factor or right's weight, right
    "density-weight": (flow(Linear(), BELL), lambda t: BELL.log_density(t).exp(), flow(Linear(), WHOLE)),
    "weight-density": (flow(Linear(), WHOLE), lambda t: (-BELL.log_density(t)).exp(), flow(Linear(), BELL)),
    "cosmap": (flow(Linear(), CosMap()), 1.0, flow(Linear(), WHOLE, weigh.CosMap())),
    "shift": (
        flow(Linear(), LogitNormal(0.2, 0.8, shift=3.0)),
        1.0,
        flow(Linear(), LogitNormal(0.2 + math.log(3), 0.8)),
    ),
    "trig-linear": (flow(Trig(), WHOLE), math.pi / 2, flow(Linear(), WHOLE)),
    "linear-edm": (flow(Linear(), WHOLE), math.pi / 2, diffusion(EDM(1.0), Linear(), CosMap())),
    "edm-training": (
        diffusion(EDM(D), VE(), LogNormal(-1.2, 1.2, sigma_max=80.0)),
        1.0,
        diffusion(EDM(D), Linear(), LogitNormal(-1.2, 1.2)),
    ),
    "likelihood-path": (
        score(VPCosine(), ON_COSINE, likelihood=True),
        length(score(Linear(), ON_LINEAR)) / length(score(VPCosine(), ON_COSINE)),
        score(Linear(), ON_LINEAR, likelihood=True),
    ),
    "sigmoid-path": (
        diffusion(V(), VPCosine(), WHOLE, weigh.Sigmoid(-1.0)),
        1.0,
        flow(Linear(), WHOLE, weigh.Sigmoid(-1.0)),
    ),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_two_losses_at_one_noise_level_differ_by_the_weight_of_the_table(name):
    left, weight, right = POINTWISE[name]
    log_snr = left.path.log_snr(T)
    there = right.path.time_of_log_snr(log_snr)
    torch.testing.assert_close(left.at(T), weight(T) * right.at(there), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", EXPECTED)
def test_two_expected_losses_differ_by_the_factor_of_the_table(name):
    left, weight, right = EXPECTED[name]
    given = {"weight": weight} if callable(weight) else {}
    factor = 1.0 if callable(weight) else weight
    assert left.expected() == pytest.approx(factor * right.expected(**given), rel=1e-3)


@pytest.mark.parametrize("name", [*POINTWISE, *EXPECTED])
def test_the_two_sides_of_a_line_are_two_things(name):
    """With another weight the line would be false: the weights are not all one, nor the losses all zero."""
    left, weight, right = (POINTWISE | EXPECTED)[name]
    assert left != right
    if name in POINTWISE:
        assert not torch.allclose(
            left.at(T), 1.05 * weight(T) * right.at(right.path.time_of_log_snr(left.path.log_snr(T)))
        )


@pytest.mark.parametrize(
    ("heading", "lines"), [("At one noise level", POINTWISE), ("In expectation", EXPECTED)]
)
def test_every_line_of_the_tables_is_tested_and_every_test_is_a_line(heading, lines):
    section = re.split(r"^#+ ", DOCUMENT, flags=re.MULTILINE)
    (own,) = [part for part in section if part.startswith(heading)]
    assert re.findall(r"^\| `([\w-]+)` \|", own, flags=re.MULTILINE) == list(lines)
