"""DDIM and DDPM against diffusers' schedulers on the discrete path, and against the exact posterior."""

import math

import pytest
import torch

from t2ilab.core.discrete import Discrete
from t2ilab.core.guidance import NoGuidance
from t2ilab.core.path import Linear, VPLinear
from t2ilab.core.prediction import Eps, Score, V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.sampling.base import Run, Table
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.vp import DDIM, DDPM
from tests.oracles import gaussian, mixture, oracle

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {  # options of diffusers' schedulers, and our path
    "linear": (LINEAR, Discrete(**LINEAR)),
    "scaled": (SCALED | {"beta_schedule": "scaled_linear"}, Discrete(**SCALED, power=2.0)),
    "zero": (
        SCALED | {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
        Discrete(**SCALED, power=2.0, zero_terminal_snr=True),
    ),
}
STEPS = 20
ROWS = 16


def rng(rows=ROWS):
    return RowRng(0, 0, torch.arange(rows), rows)


def our_noise(i):
    """What the samplers add in step i."""
    run = Run(None, Table([0.0] * (STEPS + 1), *[[]] * 6), rng(), None)
    return run.add_noise(i, torch.zeros(ROWS, 1, 1, 1, dtype=torch.float64), 1.0)


def setting(scheduler, path, prediction):
    """An oracle on the path of a diffusers scheduler, and noise for it."""
    scheduler.set_timesteps(STEPS)
    denoiser = oracle(mixture(), path, prediction)
    return denoiser, torch.linspace(-2, 2, ROWS, dtype=torch.float64).view(ROWS, 1, 1, 1)


def their_states(scheduler, denoiser, x1, **options):
    """The states of a run of the scheduler with the same oracle; `options` are functions of the step."""
    states = [x1]
    for i, k in enumerate(scheduler.timesteps):
        t = torch.full((ROWS,), (int(k) + 1) / 1000, dtype=torch.float64)
        now = {name: option(i) for name, option in options.items()}
        states.append(scheduler.step(denoiser(states[-1], t, None).out, k, states[-1], **now).prev_sample)
    return states


@pytest.mark.parametrize(
    ("eta", "schedule"),
    [
        (eta, schedule)
        for eta in (0.0, 0.6, 1.0)
        for schedule in SCHEDULES
        if (eta, schedule) != (1.0, "zero")
    ],
)
def test_ddim_equals_that_of_diffusers(eta, schedule):
    """But for eta = 1 from a terminal SNR of zero, where diffusers takes the root of 0, or of -1e-8: nan."""
    from diffusers import DDIMScheduler

    options, path = SCHEDULES[schedule]
    kind = {"prediction_type": "v_prediction"} if schedule == "zero" else {}
    scheduler = DDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True, **options, **kind
    )
    denoiser, x1 = setting(scheduler, path, V() if kind else Eps())
    noise = our_noise if eta else lambda i: None
    theirs = their_states(scheduler, denoiser, x1, eta=lambda i: eta, variance_noise=noise)
    ours = DDIM(Grid(STEPS), eta=eta)(denoiser, x1, rng=rng()).x
    torch.testing.assert_close(ours, theirs[-1], rtol=0, atol=2e-5)  # their schedule is float32


@pytest.mark.parametrize("schedule", ["linear", "scaled"])
@pytest.mark.parametrize("large", [False, True])
def test_ddpm_equals_that_of_diffusers(large, schedule, monkeypatch):
    """All but the last step: with the large variance diffusers adds noise even to the clean image."""
    import diffusers.schedulers.scheduling_ddpm as module

    drawn = iter(range(STEPS))
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: our_noise(next(drawn)))
    options, path = SCHEDULES[schedule]
    kind = "fixed_large" if large else "fixed_small"
    scheduler = module.DDPMScheduler(
        clip_sample=False, timestep_spacing="trailing", variance_type=kind, **options
    )
    denoiser, x1 = setting(scheduler, path, Eps())
    theirs = their_states(scheduler, denoiser, x1)
    ours = DDPM(Grid(STEPS), large_variance=large)(denoiser, x1, rng=rng(), keep_states=True).states
    torch.testing.assert_close(torch.stack(ours[:-1]), torch.stack(theirs[:-1]), rtol=0, atol=2e-5)
    if not large:
        torch.testing.assert_close(ours[-1], theirs[-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_equals_the_snr_of_diffusers(schedule):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    options, path = SCHEDULES[schedule]
    steps = torch.arange(0, 1000, 37)
    ours = path.log_snr((steps + 1).double() / 1000).exp().float()
    torch.testing.assert_close(ours, compute_snr(DDPMScheduler(**options), steps), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("prediction", [Eps(), Score()])
@pytest.mark.parametrize("make", [DDIM, DDPM, DPMSolverPP2M])
def test_an_eps_network_is_refused_where_no_data_is_left_and_taken_where_some_is(make, prediction):
    _, zero = SCHEDULES["zero"]
    with pytest.raises(ValueError, match=r"prediction=.*path=Discrete.*sampler\.grid\.start"):
        make(Grid(4)).check(zero, prediction)
    make(Grid(4)).check(zero, V())
    make(Grid(4)).check(SCHEDULES["scaled"][1], prediction)


@pytest.mark.parametrize("path", [Linear(), VPLinear()])
def test_ddim_with_full_noise_is_ddpm(path):
    denoiser = oracle(mixture(), path, Velocity())
    x1 = torch.randn(ROWS, 1, 2, 2, dtype=torch.float64)
    first = DDIM(Grid(10), eta=1.0)(denoiser, x1, rng=rng()).x
    second = DDPM(Grid(10))(denoiser, x1, rng=rng()).x
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", [Linear(), VPLinear()])
@pytest.mark.parametrize("make", [DDIM, lambda grid: DDIM(grid, eta=0.7), DDPM])
def test_a_step_with_known_data_gives_the_marginal_of_the_next_time(make, path):
    """If x0 is known, x' must be N(alpha' x0, sigma'^2) whenever x is N(alpha x0, sigma^2)."""
    rows, value = 20000, 1.5
    denoiser = oracle(gaussian(value, 1e-6), path, V())
    times = torch.tensor([0.8, 0.5], dtype=torch.float64)
    table = Table.of(path, denoiser.prediction, times)
    sampler = make(Grid(1))
    stream = rng(rows)
    noise = stream.normal("start", 1, 1, 1, dtype=torch.float64)
    x = table.alpha[0] * value + table.sigma[0] * noise
    run = Run(NoGuidance().bind(denoiser, None), table, stream, None)
    x = sampler.step(run, 0, x)
    assert float(x.mean()) == pytest.approx(table.alpha[1] * value, abs=5 * table.sigma[1] / rows**0.5)
    assert float(x.std()) == pytest.approx(table.sigma[1], rel=5 / (2 * rows) ** 0.5)


def test_ddpm_samples_have_the_distribution_of_the_data():
    denoiser = oracle(gaussian(0.7, 0.5), VPLinear(), Eps())
    stream = rng(20000)
    x1 = stream.normal("noise", 1, 1, 1)
    x = DDPM(Grid(200))(denoiser, x1, rng=stream).x.double()
    assert float(x.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


def test_log_probabilities_are_those_of_the_steps():
    path = VPLinear()
    denoiser = oracle(gaussian(0.7, 0.5), path, V())
    x1 = torch.randn(ROWS, 1, 2, 2, dtype=torch.float64)
    sampler = DDPM(Grid(6))
    run = sampler(denoiser, x1, rng=rng(), keep_states=True)
    assert run.log_probs.shape == (5, ROWS)  # the last step adds no noise
    times = sampler.grid.times(path)
    table = Table.of(path, denoiser.prediction, times)
    for i in range(5):
        x0 = denoiser(run.states[i], times[i].expand(ROWS), None).x0
        share = table.alpha[i] / table.alpha[i + 1]
        lost = table.sigma[i] ** 2 - (share * table.sigma[i + 1]) ** 2
        kept = (table.sigma[i + 1] / table.sigma[i]) ** 2
        mean = share * kept * run.states[i] + table.alpha[i + 1] * lost / table.sigma[i] ** 2 * x0
        distribution = torch.distributions.Normal(mean, math.sqrt(lost * kept))
        expected = distribution.log_prob(run.states[i + 1]).flatten(1).sum(1)
        torch.testing.assert_close(run.log_probs[i], expected, rtol=1e-6, atol=1e-6)


def test_an_impossible_eta_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.eta"):
        DDIM(Grid(4), eta=1.5)
