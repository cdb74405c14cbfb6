"""The stochastic sampler keeps the marginals."""

import pytest
import torch

from t2ilab.core.path import Linear, Trig
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.sampling.grid import Grid, LastStepGrid
from t2ilab.sampling.ode import Euler
from t2ilab.sampling.sde import EulerMaruyama
from tests.oracles import gaussian, mixture, oracle


def rng(rows):
    return RowRng(0, 0, torch.arange(rows), rows)


def test_variance_before_and_after_the_last_step_has_its_known_value():
    """N(0, 0.25), w = 2: exact variance 0.2320 at t = 0.04; the mean step to 0 is biased low by design."""
    stream = rng(40000)
    x1 = stream.normal("noise", 1, 1, 1)
    sampler = EulerMaruyama(LastStepGrid(251, last=0.04), w=2.0)
    run = sampler(oracle(gaussian(0.0, 0.5), Linear(), Velocity()), x1, rng=stream, keep_states=True)
    assert float(run.states[-2].var()) == pytest.approx(0.2312, abs=5 * 0.2312 * (2 / 40000) ** 0.5)
    assert float(run.x.std()) == pytest.approx(0.494, abs=5 * 0.494 / 80000**0.5)
    assert run.nfe == 251


@pytest.mark.parametrize("path", [Linear(), Trig()])
@pytest.mark.parametrize("w", [0.5, 2.0, 4.0])
def test_any_amount_of_noise_gives_the_law_of_the_data(w, path):
    stream = rng(8000)
    x1 = stream.normal("noise", 1, 1, 1)
    grid = LastStepGrid(200, last=0.01)
    x = EulerMaruyama(grid, w=w)(oracle(gaussian(0.7, 0.5), path, Velocity()), x1, rng=stream).x.double()
    assert float(x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


def test_without_noise_it_is_euler_bit_for_bit():
    denoiser = oracle(mixture(), Linear(), Velocity())
    x1 = torch.randn(8, 1, 2, 2)
    assert torch.equal(EulerMaruyama(Grid(20), w=0.0)(denoiser, x1).x, Euler(Grid(20))(denoiser, x1).x)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.w"):
        EulerMaruyama(Grid(4), w=-1.0)
