"""Identities of the noise processes, in float64."""

import math

import pytest
import torch

from t2ilab.core.discrete import Discrete, _monotone_slopes
from t2ilab.core.jvp import jvp
from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear

SCALED, DDPM = Discrete(0.00085, 0.012, power=2.0), Discrete(1e-4, 0.02)
ZERO = [
    Discrete(0.00085, 0.012, power=2.0, zero_terminal_snr=True),
    Discrete(1e-4, 0.02, zero_terminal_snr=True),
]
PATHS = [Linear(), Trig(), VPLinear(), VPCosine(), VE(), SCALED, DDPM, *ZERO]

NUMBERS = ("beta_start", "power", "zero_terminal_snr")


def kind(path):
    return "-".join([type(path).__name__, *(f"{n}={vars(path)[n]}" for n in NUMBERS if n in vars(path))])


T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
by_name = pytest.mark.parametrize("path", PATHS, ids=kind)


@by_name
def test_derivatives_are_the_slopes(path):
    t = T.clone().requires_grad_()
    (dalpha,) = torch.autograd.grad(path.alpha(t).sum() + 0 * t.sum(), t)
    (dsigma,) = torch.autograd.grad(path.sigma(t).sum(), t)
    torch.testing.assert_close(path.dalpha(T), dalpha, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.dsigma(T), dsigma, rtol=1e-10, atol=1e-10)


@by_name
def test_log_snr_falls_at_the_rate_2q_over_alpha_sigma(path):
    t = T.clone().requires_grad_()
    (slope,) = torch.autograd.grad(path.log_snr(t).sum(), t)
    torch.testing.assert_close(slope, -2 * path.q(T) / (path.alpha(T) * path.sigma(T)), rtol=1e-9, atol=1e-9)
    assert (path.q(T) > 0).all()


@by_name
def test_time_of_log_snr_inverts_log_snr(path):
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(T)), T, rtol=1e-9, atol=1e-11)


@by_name
def test_the_time_of_a_log_snr_has_its_derivative(path):
    log_snr = path.log_snr(T)
    _, slope = jvp(path.time_of_log_snr, (log_snr,), (torch.ones_like(log_snr),))
    torch.testing.assert_close(slope, -path.alpha(T) * path.sigma(T) / (2 * path.q(T)), rtol=1e-7, atol=1e-9)


@by_name
def test_ends_are_clean_and_noise(path):
    ends = torch.tensor([0.0, 1.0])
    assert path.alpha(ends)[0] == pytest.approx(1, abs=1e-6)
    assert path.sigma(ends)[0] == 0
    assert path.sigma(ends)[1] == pytest.approx(path.prior_std, rel=3e-3)  # what Stable Diffusion leaves over
    assert torch.isfinite(torch.stack([path.dalpha(ends), path.dsigma(ends), path.q(ends)])).all()


@pytest.mark.parametrize("path", [Linear(), Trig(), VPCosine(), *ZERO], ids=kind)
def test_no_data_is_left_at_the_end_of_zero_terminal_snr_paths(path):
    assert float(path.alpha(torch.tensor(1.0))) == 0.0
    assert float(path.log_snr(torch.tensor(1.0))) == -math.inf


@pytest.mark.parametrize(
    "path",
    [Trig(), VPLinear(), VPLinear(0.2, 5.0), VPCosine(), VPCosine(0.05), SCALED, *ZERO],
    ids=kind,
)
def test_variance_preserving_paths_preserve_the_variance(path):
    assert float(path.alpha(torch.tensor(0.0, dtype=torch.float64))) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(path.alpha(T) ** 2 + path.sigma(T) ** 2, torch.ones_like(T))


def test_q_has_its_known_values():
    torch.testing.assert_close(Linear().q(T), torch.ones_like(T))
    torch.testing.assert_close(Trig().q(T), torch.full_like(T, math.pi / 2))
    path = VPLinear()
    beta = 0.1 + T * 19.9
    torch.testing.assert_close(path.q(T), beta * path.alpha(T) / (2 * path.sigma(T)))


def test_squared_diffusion_of_the_linear_path_and_of_the_vp_sde():
    torch.testing.assert_close(Linear().squared_diffusion(T), 2 * T / (1 - T))
    torch.testing.assert_close(VPLinear().squared_diffusion(T), 0.1 + T * 19.9)


def test_published_numbers():
    assert float(VPLinear().alpha(torch.tensor(1.0))) == pytest.approx(0.00657, abs=1e-5)
    assert float(VE().sigma(torch.tensor(1.0))) == pytest.approx(80.0)
    shifted = math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert float(VPCosine().alpha(torch.tensor(0.5))) == pytest.approx(shifted)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("schedule", "ours"),
    [
        ("scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012, "power": 2.0}),
        ("linear", {"beta_start": 1e-4, "beta_end": 0.02, "power": 1.0}),
    ],
)
def test_discrete_paths_have_the_steps_of_diffusers(schedule, ours, zero):
    from diffusers import DDIMScheduler

    betas = {name: ours[name] for name in ("beta_start", "beta_end")}
    theirs = DDIMScheduler(
        beta_schedule=schedule, rescale_betas_zero_snr=zero, **betas
    ).alphas_cumprod.double()
    found = Discrete(**ours, zero_terminal_snr=zero).alpha((torch.arange(1000) + 1.0).double() / 1000) ** 2
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-6)  # theirs is float32


def test_discrete_paths_have_their_published_ends():
    end = torch.tensor(1.0, dtype=torch.float64)
    assert float(SCALED.alpha(end) ** 2) == pytest.approx(0.00466, abs=5e-6)
    assert float(SCALED.log_snr(end).exp()) == pytest.approx(0.00468, abs=5e-6)
    assert float(SCALED.alpha(end)) == pytest.approx(0.0683, abs=5e-5)
    assert float(DDPM.alpha(end) ** 2) == pytest.approx(4.04e-5, abs=5e-8)


@pytest.mark.parametrize(("path", "zero"), zip([SCALED, DDPM], ZERO, strict=True))
def test_zero_terminal_snr_keeps_the_first_step_and_maps_the_others_in_proportion(path, zero):
    steps = (torch.arange(1000) + 1.0).double() / 1000
    before, after = path.alpha(steps), zero.alpha(steps)
    assert after[0] == pytest.approx(float(before[0]), abs=1e-12)
    assert after[-1] == 0 and zero.sigma(steps)[-1] == 1
    ratio = (after[:-1] - after[1:]) / (before[:-1] - before[1:])
    torch.testing.assert_close(ratio, ratio[:1].expand(999), rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", [SCALED, DDPM, *ZERO, Discrete(1e-6, 0.9, steps=7)])
def test_discrete_paths_fall_smoothly_between_their_steps(path):
    t = torch.linspace(0, 1, 20011, dtype=torch.float64)
    assert (path.alpha(t).diff() < 0).all() and (path.sigma(t).diff() > 0).all()
    inner = torch.arange(1, path.steps, dtype=torch.float64) / path.steps
    left, right = path.dalpha(inner - 1e-9), path.dalpha(inner + 1e-9)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_discrete_paths_are_near_their_continuous_limits():
    torch.testing.assert_close(DDPM.log_snr(T), VPLinear().log_snr(T), rtol=0, atol=0.12)
    fine, coarse = Discrete(2e-5, 0.004, steps=5000), Discrete(1e-4, 0.02, steps=1000)
    gaps = [(path.log_snr(T) - VPLinear().log_snr(T)).abs().max() for path in (fine, coarse)]
    assert gaps[0] < 0.25 * gaps[1]


def test_less_data_than_a_discrete_path_leaves_has_no_time():
    beyond = SCALED.log_snr(torch.tensor(1.0, dtype=torch.float64)) - torch.tensor([0.1, -0.1])
    times = SCALED.time_of_log_snr(beyond)
    assert times[0] == math.inf and 0.9 < times[1] < 1


def test_time_of_the_ve_path_is_that_of_the_linear_path_up_to_its_end():
    low = torch.linspace(0.01, 0.5, 20, dtype=torch.float64)
    level = Linear().sigma(low) / Linear().alpha(low)
    torch.testing.assert_close(1 / VE().sigma(low), 1 / level + 1 / 80, rtol=1e-12, atol=0)


def test_mix_weighs_every_row_with_its_own_time():
    x0, eps = torch.randn(4, 4, 4, 4), torch.randn(4, 4, 4, 4)  # equal sizes would hide a wrong broadcast
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    mixed = Linear().mix(x0, eps, t)
    for i, time in enumerate(t.tolist()):
        torch.testing.assert_close(mixed[i], (1 - time) * x0[i] + time * eps[i])


def test_mix_leaves_low_precision_behind():
    x0, t = torch.randn(2, 1, 2, 2), torch.tensor([0.3, 0.6])
    assert Linear().mix(x0.bfloat16(), x0.bfloat16(), t).dtype == torch.float32
    assert Linear().mix(x0.double(), x0.double(), t.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "make",
    [
        lambda: VPLinear(20.0, 0.1),
        lambda: VPCosine(0.0),
        lambda: VE(0.5),
        lambda: Discrete(0.02, 1e-4),
        lambda: Discrete(1e-4, 1.0),
        lambda: Discrete(1e-4, 0.02, power=0.0),
        lambda: Discrete(1e-4, 0.02, steps=1),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match="path"):
        make()


def test_slopes_are_harmonic_means_of_the_differences_beside_them_and_the_one_difference_at_the_ends():
    slopes = _monotone_slopes(torch.tensor([0.0, 1.0, 3.0, 6.0, 5.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([1.0, 4 / 3, 12 / 5, 0.0, -1.0])


def test_the_noise_of_the_end_is_found_at_the_end():
    end = torch.ones(1, dtype=torch.float64)
    assert SCALED.time_of_log_snr(SCALED.log_snr(end)).item() == pytest.approx(1.0)
    assert SCALED.time_of_log_snr(SCALED.log_snr(end) - 0.1).item() == math.inf
