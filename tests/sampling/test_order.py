"""Convergence of the samplers on distributions whose flow map is known."""

import itertools
import math

import pytest
import torch

from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, V, Velocity
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import EDMGrid, Grid, LogSNRGrid
from t2ilab.sampling.ode import Euler, Heun
from t2ilab.sampling.vp import DDIM
from tests.oracles import MEANS, STDS, WEIGHTS, gaussian, mixture, oracle

Z = torch.linspace(-2, 2, 41, dtype=torch.float64).view(41, 1, 1, 1)
M, S = 0.7, 0.5


def exact_gaussian(path, times, z):
    """x_t2 = alpha2 m + sqrt(V2 / V1) (x_t1 - alpha1 m)."""
    ends = times[[0, -1]]
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    variance = alpha**2 * S**2 + sigma**2
    return alpha[1] * M + (variance[1] / variance[0]).sqrt() * (sigma[0] * z - alpha[0] * M)


def exact_mixture(z):
    """The flow in one dimension is the map of quantiles: the root of F(x) = Phi(z), by bisection."""
    level = torch.special.ndtr(z)
    low, high = torch.full_like(z, -6.0), torch.full_like(z, 6.0)
    for _ in range(60):
        middle = (low + high) / 2
        share = sum(
            w * torch.special.ndtr((middle - m) / s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
        )
        low, high = torch.where(share < level, middle, low), torch.where(share < level, high, middle)
    return low


def gaussian_error(make, steps, path=None, prediction=None, grid=Grid, **ends):
    path = path or Linear()
    sampler = make(grid(steps, **ends))
    x = sampler(oracle(gaussian(M, S), path, prediction or Velocity()), Z).x
    return float((x - exact_gaussian(path, sampler.grid.times(path), Z)).abs().max())


def mixture_error(make, steps, prediction=None):
    x = make(Grid(steps))(oracle(mixture(), Linear(), prediction or Velocity()), Z).x
    return float((x - exact_mixture(Z)).abs().max())


def slope(error, coarse=128):
    return math.log2(error(coarse) / error(2 * coarse))


def test_reference_map_of_the_mixture_has_its_known_values():
    """From scipy: brentq on the same equation with norm.cdf."""
    z = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    known = torch.tensor([-2.0734664740770747, 0.8302153544968247, 1.5535766571746485], dtype=torch.float64)
    torch.testing.assert_close(exact_mixture(z), known, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("make", "order"), [(Euler, 1), (Heun, 2), (DPMSolverPP2M, 2), (DDIM, 1)])
def test_order_of_convergence_on_a_mixture(make, order):
    """DPM-Solver++(2M) has a first and a last step of first order here, which show at small numbers."""
    assert order - 0.2 < slope(lambda steps: mixture_error(make, steps), 256) < order + 0.1


@pytest.mark.parametrize(("make", "order"), [(Euler, 1), (Heun, 2), (DDIM, 1)])
def test_order_of_convergence_on_a_gaussian(make, order):
    assert order - 0.1 < slope(lambda steps: gaussian_error(make, steps)) < order + 0.1


@pytest.mark.parametrize("grid", [Grid, LogSNRGrid])
def test_order_of_dpm_solver_between_its_usual_ends(grid):
    measured = slope(lambda steps: gaussian_error(DPMSolverPP2M, steps, grid=grid, start=0.999, end=0.001))
    assert 1.8 < measured < 2.3


def test_errors_have_their_measured_size():
    """Tables of errors at 8, 64 and 256 steps; Heun's last step is one of Euler here."""
    assert gaussian_error(Euler, 8) == pytest.approx(1.704e-1, rel=1e-3)
    assert gaussian_error(Euler, 64) == pytest.approx(2.289e-2, rel=1e-3)
    assert mixture_error(Euler, 256) == pytest.approx(9.08e-3, rel=1e-2)
    assert gaussian_error(Heun, 64) < 5e-4
    assert mixture_error(Heun, 64) < 1.5e-3


@pytest.mark.parametrize(
    ("std", "variances"), [(0.5, (0.18557, 0.23214, 0.24541)), (1.0, (0.77261, 0.93774, 0.98406))]
)
def test_few_steps_of_euler_lose_a_known_part_of_the_variance(std, variances):
    for steps, variance in zip((10, 40, 160), variances, strict=True):
        x = Euler(Grid(steps))(oracle(gaussian(0.0, std), Linear(), Velocity()), Z[-1:]).x
        assert float((x / Z[-1]).square()) == pytest.approx(variance, abs=6e-6)


SCALED = Discrete(0.00085, 0.012, power=2.0)
ZERO_SNR = Discrete(0.00085, 0.012, power=2.0, zero_terminal_snr=True)
OTHER_PATHS = {
    "trig": Trig(),
    "vp": VPLinear(),
    "cosine": VPCosine(),
    "ve": VE(),
    "scaled": SCALED,
    "zero": ZERO_SNR,
}


@pytest.mark.parametrize("path", OTHER_PATHS.values(), ids=OTHER_PATHS)
@pytest.mark.parametrize("make", [Euler, Heun, DPMSolverPP2M, DDIM])
def test_every_sampler_converges_on_every_path(make, path):
    def error(steps):
        """The flow map of the path to t = 0 of x ~ prior; the mean that is left at t = 1 is added to z."""
        denoiser = oracle(gaussian(M, S), path, V())
        x = make(Grid(steps))(denoiser, Z).x
        return float((x - exact_gaussian(path, torch.tensor([1.0, 0.0]).double(), Z * scale)).abs().max())

    scale = path.prior_std / float(path.sigma(torch.tensor(1.0).double()))
    assert error(400) < 0.35 * error(100)
    assert error(400) < 0.02


@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), EDM(0.5)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("make", [Euler, Heun, DPMSolverPP2M, DDIM])
def test_what_the_network_predicts_does_not_matter(make, prediction):
    def sample(kind):
        return make(Grid(12, start=0.999))(oracle(mixture(), Linear(), kind), Z).x

    torch.testing.assert_close(sample(prediction), sample(Velocity()), rtol=0, atol=1e-8)


def test_euler_equals_ddim_and_first_order_dpm_solver_on_the_linear_path_only():
    class FirstOrder(DPMSolverPP2M):
        def _extrapolation(self, run, i):
            return 0.0

    for path, same in ((Linear(), True), (Trig(), False)):
        denoiser = oracle(mixture(), path, Velocity())
        euler, ddim, dpm = (make(Grid(9))(denoiser, Z).x for make in (Euler, DDIM, FirstOrder))
        torch.testing.assert_close(ddim, dpm, rtol=0, atol=1e-11)
        assert torch.allclose(euler, ddim, rtol=0, atol=1e-11) == same


def test_heun_on_the_ve_path_is_the_sampler_of_edm():
    d, grid, path = 0.5, EDMGrid(18), VE()
    levels = path.sigma(grid.times(path)).tolist()
    x = Z * levels[0]

    def slope_at(x, level):
        x0 = 0.7 + d**2 / (level**2 + d**2) * (x - 0.7)
        return (x - x0) / level

    for level, after in itertools.pairwise(levels):
        first = slope_at(x, level)
        guess = x + (after - level) * first
        if after > 0:
            guess = x + (after - level) * (first + slope_at(guess, after)) / 2
        x = guess
    result = Heun(grid)(oracle(gaussian(0.7, d), path, EDM(d)), Z)
    torch.testing.assert_close(result.x, x, rtol=1e-9, atol=1e-9)
    assert result.nfe == 2 * 18 - 1


@pytest.mark.parametrize(("steps", "cautious"), [(14, True), (15, False)])
def test_dpm_solver_ends_with_first_order_in_short_runs_only(steps, cautious):
    denoiser, grid, path = oracle(mixture(), Linear(), Velocity()), Grid(steps, end=0.1), Linear()
    run = DPMSolverPP2M(grid)(denoiser, Z, keep_states=True)
    times = grid.times(path)
    x0 = denoiser(run.states[-2], times[-2].expand(41), None).x0
    kept = times[-1] / times[-2]
    ddim = kept * run.states[-2] + (1 - times[-1] - (1 - times[-2]) * kept) * x0
    assert torch.allclose(run.x, ddim, rtol=0, atol=1e-9) == cautious
    bold = DPMSolverPP2M(grid, lower_order_final=False)(denoiser, Z).x
    assert torch.equal(bold, run.x) != cautious


def test_euler_equals_the_flow_matching_scheduler_of_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, 11)[:-1].tolist())
    denoiser = oracle(mixture(), Linear(), Velocity())
    x = Z.float()
    for step, t in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        x = scheduler.step(denoiser(x, t.expand(41), None).out, step, x).prev_sample
    ours = Euler(Grid(10, shift=3.0))(denoiser, Z.float()).x
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_dpm_solver_2m_equals_that_of_diffusers_in_the_interior():
    """Their grid is made of sigma / alpha; compare from the second step on a grid of our own times."""
    from diffusers import DPMSolverMultistepScheduler

    steps = 20
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    scheduler.set_timesteps(steps)
    times = scheduler.sigmas.double()
    denoiser = oracle(mixture(), Linear(), Velocity())

    class Theirs(Grid):
        def times(self, path):
            return times

    x = Z * times[0]
    for i, step in enumerate(scheduler.timesteps):
        out = denoiser(x, times[i].expand(41), None).out
        x = scheduler.step(out, step, x).prev_sample
    ours = DPMSolverPP2M(Theirs(steps))(denoiser, Z).x
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)
