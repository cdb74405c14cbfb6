"""All predictions describe one pair (x0, eps): every conversion is a cycle back to it."""

import math

import pytest
import torch

from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from tests.oracles import dataset, gaussian, mixture, oracle

SCALED = Discrete(0.00085, 0.012, power=2.0)
ZERO_SNR = Discrete(0.00085, 0.012, power=2.0, zero_terminal_snr=True)
PATHS = [Linear(), Trig(), VPLinear(), VPCosine(), VE(), SCALED, ZERO_SNR]
PREDICTIONS = [X0(), Eps(), V(), Velocity(), Score(), EDM(0.5)]


def name(thing):
    return type(thing).__name__


def pair(rows: int = 5):
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, rows, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x0, eps, torch.linspace(0.01, 0.99, rows, dtype=torch.float64)


def columns(values):
    return values.view(-1, 1, 1, 1)


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_a_perfect_output_resolves_to_the_data_and_the_noise(path, prediction):
    x0, eps, t = pair()
    out = prediction.target(path, x0, eps, t)
    estimate = prediction.resolve(path, out, path.mix(x0, eps, t), t)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("first", PREDICTIONS, ids=name)
@pytest.mark.parametrize("second", PREDICTIONS, ids=name)
def test_any_two_predictions_convert_into_each_other_and_back(path, first, second):
    generator = torch.Generator().manual_seed(4)
    out, x = torch.randn(2, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    there = first.resolve(path, out, x, t).read(second)
    back = second.resolve(path, there, x, t).read(first)
    torch.testing.assert_close(back, out, rtol=1e-8, atol=1e-8)


def test_the_formulas_of_the_linear_path():
    out, x = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    estimate = Velocity().resolve(Linear(), out, x, t)
    s = columns(t)
    torch.testing.assert_close(estimate.x0, x - s * out)
    torch.testing.assert_close(estimate.eps, x + (1 - s) * out)
    torch.testing.assert_close(estimate.score(), -(x + (1 - s) * out) / s)
    torch.testing.assert_close(Velocity().target(Linear(), x, out, t), out - x)


def test_the_formulas_of_v_prediction():
    out, x = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    path = VPCosine()
    a, s = columns(path.alpha(t)), columns(path.sigma(t))
    estimate = V().resolve(path, out, x, t)
    torch.testing.assert_close(estimate.x0, a * x - s * out)
    torch.testing.assert_close(estimate.eps, s * x + a * out)
    torch.testing.assert_close(V().target(path, x, out, t), a * out - s * x)


def test_v_is_the_velocity_of_the_trig_path_up_to_a_factor():
    x0, eps, t = pair()
    path = Trig()
    estimate = Eps().resolve(path, eps, path.mix(x0, eps, t), t)
    torch.testing.assert_close(estimate.read(V()), estimate.velocity() * 2 / math.pi)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_tweedie_and_the_drift_of_the_probability_flow(path):
    x0, eps, t = pair()
    x = path.mix(x0, eps, t)
    estimate = X0().resolve(path, x0, x, t)
    a, s = columns(path.alpha(t)), columns(path.sigma(t))
    torch.testing.assert_close((x + s**2 * estimate.score()) / a, x0, rtol=1e-8, atol=1e-8)
    drift = columns(path.dalpha(t)) / a * x - columns(path.squared_diffusion(t)) / 2 * estimate.score()
    torch.testing.assert_close(estimate.velocity(), drift, rtol=1e-8, atol=1e-8)
    expected = columns(path.dalpha(t)) * x0 + columns(path.dsigma(t)) * eps
    torch.testing.assert_close(estimate.velocity(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_edm_is_the_preconditioning_of_the_paper(path):
    d = 0.5
    out, x = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    level = path.sigma(t) / path.alpha(t)
    y = x / columns(path.alpha(t))
    c_skip, c_out = d**2 / (level**2 + d**2), level * d / (level**2 + d**2).sqrt()
    estimate = EDM(d).resolve(path, out, x, t)
    torch.testing.assert_close(estimate.x0, columns(c_skip) * y + columns(c_out) * out)
    c_in = 1 / (level**2 + d**2).sqrt()
    torch.testing.assert_close(columns(EDM(d).input_scale(path, t)) * x, columns(c_in) * y)
    torch.testing.assert_close(EDM(d).time_input(path, t), level.log() / 4)


def test_edm_target_of_gaussian_data_of_its_own_spread_is_zero_on_average():
    """F* = 0 for N(0, sigma_data^2): the skip connection alone is the posterior mean."""
    denoiser = oracle(gaussian(0.0, 0.5), VE(), EDM(0.5))
    x, t = torch.randn(5, 1, 2, 2, dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    assert denoiser(x, t, None).out.abs().max() < 1e-12


@pytest.mark.parametrize("prediction", [V(), Velocity(), EDM()], ids=name)
@pytest.mark.parametrize("path", [Linear(), Trig(), VPCosine(), ZERO_SNR], ids=name)
def test_regular_predictions_are_exact_at_both_ends(path, prediction):
    x0, eps, _ = (value.float() for value in pair(2))
    t = torch.tensor([0.0, 1.0])
    x = path.mix(x0, eps, t)
    estimate = prediction.resolve(path, prediction.target(path, x0, eps, t), x, t)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_nothing_is_ever_nan(path, prediction):
    x0, eps, _ = (value.float() for value in pair(2))
    t = torch.tensor([0.0, 1.0])
    estimate = prediction.resolve(path, prediction.target(path, x0, eps, t), path.mix(x0, eps, t), t)
    for value in (estimate.x0, estimate.eps, estimate.velocity(), estimate.score(), estimate.read(V())):
        assert not value.isnan().any()


def test_x0_network_gives_the_data_at_the_clean_end_and_eps_network_the_noise_at_the_other():
    x0, eps, _ = (value.float() for value in pair(2))
    t = torch.tensor([0.0, 1.0])
    x = Linear().mix(x0, eps, t)
    torch.testing.assert_close(X0().resolve(Linear(), x0, x, t).x0, x0)
    torch.testing.assert_close(Eps().resolve(Linear(), eps, x, t).eps, eps)


@pytest.mark.parametrize("distribution", [gaussian(), mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_estimates_of_an_oracle_do_not_depend_on_what_it_predicts(path, distribution):
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).view(5, 1, 1, 1)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    reference = oracle(distribution, path, X0())(x, t, None)
    for prediction in PREDICTIONS:
        estimate = oracle(distribution, path, prediction)(x, t, None)
        torch.testing.assert_close(estimate.x0, reference.x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(estimate.velocity(), reference.velocity(), rtol=1e-7, atol=1e-7)


def test_velocity_of_gaussian_data_matches_closed_form():
    m, s = 0.7, 0.5
    x, t = torch.linspace(-2, 2, 9, dtype=torch.float64), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    variance = (1 - t) ** 2 * s**2 + t**2
    expected = -m + (t - (1 - t) * s**2) / variance * (x - (1 - t) * m)
    estimate = oracle(gaussian(m, s), Linear(), Velocity())(x.view(-1, 1, 1, 1), t, None)
    torch.testing.assert_close(estimate.velocity().flatten(), expected)
    torch.testing.assert_close(estimate.score().flatten(), -(x - (1 - t) * m) / variance)


def test_score_of_a_finite_dataset_is_the_gradient_of_its_density():
    points = torch.randn(4, 1, 1, 2, dtype=torch.float64)
    path, t = VPLinear(), torch.tensor([0.4], dtype=torch.float64)
    x = torch.randn(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    distance = (x - path.alpha(t) * points).flatten(1).square().sum(1)
    log_density = torch.logsumexp(-0.5 * distance / path.sigma(t) ** 2, 0)
    (score,) = torch.autograd.grad(log_density, x)
    estimate = oracle(dataset(points), path, V())(x.detach(), t, None)
    torch.testing.assert_close(estimate.score(), score)


def test_equal_inputs_give_errors_that_differ_by_the_determinants():
    x, out, wrong = torch.randn(3, 5, 1, 2, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for path in PATHS:
        for own in PREDICTIONS:
            for space in PREDICTIONS:
                gap = own.resolve(path, out, x, t).read(space) - own.resolve(path, wrong, x, t).read(space)
                ratio = space.determinant(path, t) / own.determinant(path, t)
                torch.testing.assert_close(gap, columns(ratio) * (out - wrong), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_error_of_an_output_is_what_was_added_to_the_target(path, prediction):
    x0, eps, t = pair()
    added = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    out = prediction.target(path, x0, eps, t) + added
    found = prediction.resolve(path, out, path.mix(x0, eps, t), t).output_error(x0, eps)
    expected = columns(path.sigma(t)) * added if isinstance(prediction, Score) else added
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_scale_of_targets_for_data_of_unit_variance():
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    one = torch.ones_like(t)
    for prediction in (X0(), Eps()):
        torch.testing.assert_close(prediction.scale(VE(), t), one)
    torch.testing.assert_close(V().scale(VPCosine(), t), one)
    torch.testing.assert_close(Velocity().scale(Linear(), t), 2**0.5 * one)
    torch.testing.assert_close(Velocity().scale(Trig(), t), math.pi / 2 * one)
    torch.testing.assert_close(Score().scale(Linear(), t), 1 / t)


def test_numbers_given_by_a_sampler_read_like_tensors():
    x, out = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    t = torch.full((3,), 0.4, dtype=torch.float64)
    for path in PATHS:
        for prediction in PREDICTIONS:
            slow = prediction.resolve(path, out, x, t)
            fast = prediction.resolve(path, out, x, t)
            fast.numbers = type(slow.system)(*(float(value[0]) for value in slow.system))
            for read in ("velocity", "score"):
                torch.testing.assert_close(getattr(fast, read)(), getattr(slow, read)())
            torch.testing.assert_close(fast.x0, slow.x0)
            torch.testing.assert_close(fast.eps, slow.eps)


def test_edm_refuses_a_spread_of_zero():
    with pytest.raises(ValueError, match=r"prediction\.sigma_data"):
        EDM(0.0)
