"""What all samplers share: the start, the record, the noise, the cost and the refusals."""

import copy

import pytest
import torch

from t2ilab.core.cfg_zero import CFGZero
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG, IntervalCFG
from t2ilab.core.path import VE, Linear, VPCosine
from t2ilab.core.prediction import EDM, X0, Eps, Score, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.sampling.base import Run, Table
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import Grid, LastStepGrid
from t2ilab.sampling.ode import Euler, Heun
from t2ilab.sampling.sde import EulerMaruyama
from t2ilab.sampling.vp import DDIM, DDPM
from tests.oracles import Recorder, Silent, gaussian, oracle, texts

STOCHASTIC = [DDPM(Grid(6)), DDIM(Grid(6), eta=1.0), EulerMaruyama(LastStepGrid(6))]
DETERMINISTIC = [Euler(Grid(6)), Heun(Grid(6)), DPMSolverPP2M(Grid(6)), DDIM(Grid(6))]


def kind(sampler):
    return type(sampler).__name__


def rng(rows):
    return RowRng(5, 0, torch.arange(rows), rows)


@pytest.mark.parametrize("sampler", [Euler(Grid(7)), Heun(Grid(7))], ids=kind)
def test_a_silent_velocity_network_returns_the_noise_it_was_given(sampler):
    x1 = torch.randn(3, 2, 4, 4)
    assert torch.equal(sampler(Denoiser(Silent(), Linear(), Velocity()), x1).x, x1)


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC[:2]], ids=kind)
def test_a_distribution_of_one_point_is_reached_exactly(sampler):
    denoiser = oracle(gaussian(1.5, 1e-9), Linear(), Velocity())
    x = sampler(denoiser, torch.randn(4, 1, 2, 2, dtype=torch.float64), rng=rng(4)).x
    torch.testing.assert_close(x, torch.full_like(x, 1.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=kind)
def test_noise_of_a_row_does_not_depend_on_the_other_rows(sampler):
    denoiser = oracle(gaussian(), Linear(), Velocity())
    x1, stream = torch.randn(6, 1, 2, 2), rng(6)
    whole = sampler(denoiser, x1, rng=stream).x
    part = sampler(denoiser, x1[2:4], rng=stream[2:4]).x
    torch.testing.assert_close(part, whole[2:4], rtol=0, atol=1e-6)
    other = sampler(denoiser, x1, rng=RowRng(6, 0, torch.arange(6), 6)).x
    assert (other - whole).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 32, 32), (4, 64, 64)])
def test_noise_of_steps_is_independent_and_does_not_depend_on_the_order_of_asking(shape):
    zero = torch.zeros(8, *shape)

    def noise(run, i):
        return run.add_noise(i, zero, 1.0)

    table = Table([0.0] * 4098, *[[]] * 6)
    forward, backward = Run(None, table, rng(8), None), Run(None, table, rng(8), None)
    steps = [0, 1, 2, 3, 4096]
    first = [noise(forward, i) for i in steps]
    second = [noise(backward, i) for i in reversed(steps)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for i, a in enumerate(first):
        for b in first[i + 1 :]:
            assert abs((a * b).mean()) < 5 / zero.numel() ** 0.5


@pytest.mark.parametrize(("shape", "together"), [((1, 2, 2), 16), ((5, 8, 8), 12), ((8, 32, 32), 1)])
def test_noise_of_a_step_is_what_it_was_however_many_steps_are_drawn_at_once(shape, together):
    """Of stream i // together, its part i % together: images of a seed stay what they were."""
    for rows in (1, 8):
        run = Run(None, Table([0.0] * 40, *[[]] * 6), rng(rows), None)
        for i in range(39):
            stream = rng(rows).fold(i // together).normal("sampler", together, *shape)
            assert torch.equal(run.add_noise(i, torch.zeros(rows, *shape), 1.0), stream[:, i % together])


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=kind)
def test_stochastic_samplers_ask_for_an_rng_of_the_right_size(sampler):
    denoiser = oracle(gaussian(), Linear(), Velocity())
    for wrong in (None, rng(3)):
        with pytest.raises(ValueError, match="rng"):
            sampler(denoiser, torch.randn(4, 1, 2, 2), rng=wrong)


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC], ids=kind)
def test_states_are_recorded_from_the_noise_to_the_result(sampler):
    denoiser, x1 = oracle(gaussian(), VE(), Velocity()), torch.randn(4, 1, 2, 2)
    run = sampler(denoiser, x1, rng=rng(4), keep_states=True)
    assert len(run.states) == 7
    torch.testing.assert_close(run.states[0], 80 * x1)
    assert torch.equal(run.states[-1], run.x)
    assert (run.log_probs is None) == (not sampler.is_stochastic)
    short = sampler(denoiser, x1, rng=rng(4))
    assert short.states == [] and short.log_probs is None and torch.equal(short.x, run.x)


def test_a_later_start_begins_with_less_noise():
    denoiser, x1 = oracle(gaussian(), Linear(), Velocity()), torch.randn(4, 1, 2, 2)
    run = Euler(Grid(4, start=0.8))(denoiser, x1, keep_states=True)
    torch.testing.assert_close(run.states[0], 0.8 * x1)


def test_times_reach_the_network_in_falling_order():
    backbone = Recorder()
    Heun(Grid(3))(Denoiser(backbone, Linear(), Velocity(), time_scale=1.0), torch.randn(2, 1, 2, 2))
    times = [time[0].item() for _, time, _ in backbone.calls]
    assert times == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("guidance", "sampler", "nfe"),
    [
        (None, Euler(Grid(10)), 10),
        (CFG(1.0), Euler(Grid(10)), 10),
        (CFG(2.0), Euler(Grid(10)), 20),
        (CFG(2.0), Heun(Grid(10)), 38),
        (IntervalCFG(2.0, low=0.0, high=0.7), Euler(Grid(10)), 10 + 7),
        (CFG(2.0), DPMSolverPP2M(Grid(10)), 20),
    ],
)
def test_evaluations_are_counted(guidance, sampler, nfe):
    denoiser = oracle(gaussian(), Linear(), Velocity())
    run = sampler(denoiser, torch.randn(2, 1, 2, 2), texts(2), texts(1), guidance=guidance)
    assert run.nfe == nfe


def test_guided_samples_of_gaussians_have_the_guided_mean():
    denoiser = oracle(gaussian(0.0, 0.5), Linear(), Velocity())
    z = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    x = Heun(Grid(100))(denoiser, z, texts(5, 1.0), texts(1, 0.2), guidance=CFG(3.0)).x
    torch.testing.assert_close(x, 0.2 + 3.0 * 0.8 + 0.5 * z, rtol=0, atol=2e-3)


@pytest.mark.parametrize("prediction", [Eps(), Score()])
@pytest.mark.parametrize("path", [Linear(), VPCosine()])
def test_a_start_where_the_output_says_nothing_about_the_data_is_refused(path, prediction):
    denoiser = oracle(gaussian(), path, prediction)
    with pytest.raises(ValueError, match=r"sampler\.grid\.start"):
        Euler(Grid(4))(denoiser, torch.randn(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"sampler\.grid\.start"):
        Euler(Grid(4)).check(path, prediction)  # before anything is trained
    assert Euler(Grid(4, start=0.999))(denoiser, torch.randn(2, 1, 2, 2)).x.isfinite().all()


@pytest.mark.parametrize("prediction", [X0(), EDM(), Velocity()])
def test_both_ends_of_the_linear_path_are_finite_and_exact(prediction):
    denoiser = oracle(gaussian(0.3, 1e-9), Linear(), prediction)
    for sampler in DETERMINISTIC:
        x = sampler(denoiser, torch.randn(3, 1, 2, 2)).x
        torch.testing.assert_close(x, torch.full_like(x, 0.3), rtol=0, atol=1e-4)


def test_state_is_float32_under_autocast_and_no_graph_is_kept():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 1, 1)

        def forward(self, x, time, cond, taps=()):
            return self.conv(x), {}

    with torch.autocast("cpu", torch.bfloat16):
        run = Heun(Grid(3))(Denoiser(Net(), Linear(), Velocity()), torch.randn(2, 1, 2, 2), keep_states=True)
    assert all(state.dtype == torch.float32 for state in run.states)
    assert not run.x.requires_grad


class Given(Grid):
    """A grid of given times."""

    def __init__(self, times):
        super().__init__(len(times) - 1)
        self.given = times

    def times(self, path):
        return self.given


@pytest.mark.parametrize("still", [1, 2])
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=kind)
def test_still_steps_are_a_start_from_the_same_noise_at_a_later_time(sampler, still):
    """Their velocity is 0: the state of time 1 is taken for one of time t_still, and only the others cost."""
    denoiser = oracle(gaussian(), Linear(), Velocity())
    x1 = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    times = sampler.grid.times(Linear())
    found = sampler(denoiser, x1, texts(4), texts(1), guidance=CFGZero(2.0, still), keep_states=True)
    assert all(torch.equal(state, x1) for state in found.states[: still + 1])
    assert not torch.equal(found.states[still + 1], x1)
    later = copy.deepcopy(sampler)
    later.grid = Given(times[still:])
    start = x1 / times[still]  # a sampler scales what it is given to the noise of its first time
    expected = later(denoiser, start, texts(4), texts(1), guidance=CFGZero(2.0, 0))
    torch.testing.assert_close(found.x, expected.x, rtol=1e-12, atol=1e-12)
    assert found.nfe == expected.nfe


def test_still_steps_hold_for_the_conditional_model_too_and_must_leave_a_step():
    denoiser, x1 = oracle(gaussian(), Linear(), Velocity()), torch.randn(4, 1, 2, 2)
    plain = Euler(Grid(6))(denoiser, x1, texts(4), texts(1), guidance=CFGZero(1.0, 2))
    assert plain.nfe == 4
    with pytest.raises(ValueError, match=r"guidance.zero_steps=6 leaves nothing of the 6 steps"):
        Euler(Grid(6))(denoiser, x1, texts(4), texts(1), guidance=CFGZero(2.0, 6))
