"""The stochastic samplers keep the marginals."""

import pytest
import torch

from t2ilab.core.path import Linear, Trig, VPLinear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import Grid, LastStepGrid
from t2ilab.sampling.ode import Euler
from t2ilab.sampling.sde import EulerMaruyama
from t2ilab.sampling.vp import DDPM
from tests.oracles import gaussian, mixture, oracle


class FirstOrder(DPMSolverPP2M):
    def _extrapolation(self, run, i):
        return 0.0


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
def test_any_amount_of_noise_gives_the_distribution_of_the_data(w, path):
    stream = rng(8000)
    x1 = stream.normal("noise", 1, 1, 1)
    grid = LastStepGrid(200, last=0.01)
    x = EulerMaruyama(grid, w=w)(oracle(gaussian(0.7, 0.5), path, Velocity()), x1, rng=stream).x.double()
    assert float(x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("path", "start"), [(VPLinear(), 1.0), (Linear(), 0.95), (Trig(), 0.95)])
@pytest.mark.parametrize("w", [0.5, 1.0])
def test_the_reversal_of_the_forward_sde_gives_the_distribution_of_the_data(w, path, start):
    stream = rng(8000)
    x1 = stream.normal("noise", 1, 1, 1)
    sampler = EulerMaruyama(LastStepGrid(600, last=0.005, start=start), w=w, diffusion="path")
    denoiser = oracle(gaussian(0.0, 0.5), path, Velocity())
    x = sampler(denoiser, x1, rng=stream).x.double()
    assert float(x.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(x.std()) == pytest.approx(0.5, abs=0.025)


def test_one_step_of_the_reversal_has_the_variance_of_the_forward_one():
    path, stream = VPLinear(), rng(40000)
    grid = Grid(200, start=0.5, end=0.4)
    sampler = EulerMaruyama(grid, w=1.0, diffusion="path")
    run = sampler(
        oracle(gaussian(0.3, 1e-4), path, Velocity()),
        torch.zeros(40000, 1, 1, 1),
        rng=stream,
        keep_states=True,
    )
    g2 = float(path.squared_diffusion(torch.tensor(0.5)))
    assert float(run.states[1].var()) == pytest.approx(g2 * 0.1 / 200, rel=0.05)


def test_a_diffusion_that_is_unknown_or_infinite_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.diffusion must be one of sigma, path"):
        EulerMaruyama(Grid(4), diffusion="g")
    sampler = EulerMaruyama(Grid(4), diffusion="path")
    with pytest.raises(ValueError, match=r"sampler\.diffusion=path is infinite.*path=Trig.*start=0\.99"):
        sampler.check(Trig(), Velocity())
    sampler.check(VPLinear(), Velocity())
    EulerMaruyama(Grid(4), w=0.0, diffusion="path").check(Trig(), Velocity())  # no noise, nothing infinite


def test_without_noise_it_is_euler_bit_for_bit():
    denoiser = oracle(mixture(), Linear(), Velocity())
    x1 = torch.randn(8, 1, 2, 2)
    assert torch.equal(EulerMaruyama(Grid(20), w=0.0)(denoiser, x1).x, Euler(Grid(20))(denoiser, x1).x)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.w"):
        EulerMaruyama(Grid(4), w=-1.0)


@pytest.mark.parametrize("path", [Linear(), Trig(), VPLinear()])
@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_dpm_solver_with_any_amount_of_noise_gives_the_distribution_of_the_data(eta, path):
    stream = rng(8000)
    x1 = stream.normal("noise", 1, 1, 1)
    x = DPMSolverPP2M(Grid(120), eta=eta)(oracle(gaussian(0.7, 0.5), path, Velocity()), x1, rng=stream).x
    assert float(x.mean()) == pytest.approx(0.7, abs=5 * 0.5 / 8000**0.5)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


def test_dpm_solver_keeps_a_known_image_in_noise_of_the_right_size_at_every_time():
    """One possible image: D is exact, and x_t must be alpha m + sigma z at each time, however few the steps."""
    stream, path = rng(20000), Linear()
    x1 = stream.normal("noise", 1, 1, 1)
    run = DPMSolverPP2M(Grid(5, shift=2.0), eta=1.0)(
        oracle(gaussian(0.7, 1e-4), path, Velocity()), x1, rng=stream, keep_states=True
    )
    for t, state in zip(Grid(5, shift=2.0).times(path).tolist(), run.states, strict=True):
        assert float(state.mean()) == pytest.approx((1 - t) * 0.7, abs=1e-3 + 5 * t / 20000**0.5)
        assert float(state.std()) == pytest.approx(t, abs=1e-3 + 5 * t / 40000**0.5)


def test_second_order_shows_in_the_spread_of_few_steps():
    """std of N(0.7, 0.25) after 16 steps: 0.417 by first order, 0.523 by second."""
    stream = rng(20000)
    x1, denoiser = stream.normal("noise", 1, 1, 1), oracle(gaussian(0.7, 0.5), Linear(), Velocity())
    first, second = (
        abs(float(make(Grid(16), eta=1.0)(denoiser, x1, rng=stream).x.std()) - 0.5)
        for make in (FirstOrder, DPMSolverPP2M)
    )
    assert second < 0.5 * first


def test_first_order_with_the_noise_of_the_reverse_process_is_ddpm():
    stream = rng(16)
    x1, denoiser = stream.normal("noise", 1, 2, 2), oracle(mixture(), VPLinear(), Velocity())
    ours, ddpm = (
        sampler(denoiser, x1, rng=stream).x for sampler in (FirstOrder(Grid(12), eta=1.0), DDPM(Grid(12)))
    )
    torch.testing.assert_close(ours, ddpm, rtol=0, atol=1e-5)


def test_dpm_solver_without_noise_needs_no_stream():
    denoiser, x1 = oracle(mixture(), Linear(), Velocity()), torch.randn(4, 1, 2, 2)
    assert torch.equal(
        DPMSolverPP2M(Grid(9), eta=0.0)(denoiser, x1).x, DPMSolverPP2M(Grid(9))(denoiser, x1).x
    )
    with pytest.raises(ValueError, match=r"sampler\.eta"):
        DPMSolverPP2M(Grid(4), eta=-0.1)
