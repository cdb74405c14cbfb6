"""Weights against their papers' formulas and against diffusers."""

import math

import pytest
import torch

from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear
from t2ilab.core.prediction import EDM as EDMPrediction
from t2ilab.core.prediction import X0, Eps, V, Velocity
from t2ilab.core.weighting import EDM, P2, CosMap, Likelihood, MinSNR, SigmaSqrt, Sigmoid, Uniform

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def on(weighting, space, path):
    """The weight restated for the error of another prediction."""
    return weighting(T, path) * (weighting.space.determinant(path, T) / space.determinant(path, T)) ** 2


@pytest.mark.parametrize("path", [VPLinear(), VPCosine(), Trig()])
def test_min_snr_has_its_published_form_for_every_prediction(path):
    snr = path.log_snr(T).exp()
    least = snr.clamp(max=5.0)
    torch.testing.assert_close(on(MinSNR(5.0), X0(), path), least)
    torch.testing.assert_close(on(MinSNR(5.0), Eps(), path), least / snr)
    torch.testing.assert_close(on(MinSNR(5.0), V(), path), least / (snr + 1))


def test_min_snr_with_a_huge_gamma_is_the_eps_loss_and_with_a_tiny_one_the_x0_loss():
    path = VPLinear()
    torch.testing.assert_close(on(MinSNR(1e12), Eps(), path), torch.ones_like(T))
    torch.testing.assert_close(on(MinSNR(1e-9), X0(), path), torch.full_like(T, 1e-9))


@pytest.mark.parametrize("path", [Linear(), VPCosine(), VE()])
def test_edm_weight_is_one_on_the_network_output(path):
    torch.testing.assert_close(on(EDM(0.5), EDMPrediction(0.5), path), torch.ones_like(T))


def test_uniform_velocity_weighs_eps_by_one_over_alpha_squared():
    torch.testing.assert_close(on(Uniform(Velocity()), Eps(), Linear()), (1 - T) ** -2)
    torch.testing.assert_close(on(Uniform(Velocity()), X0(), Linear()), T**-2)
    torch.testing.assert_close(on(Uniform(V()), Eps(), VPLinear()), VPLinear().alpha(T) ** -2)


def test_likelihood_is_half_the_squared_diffusion_over_sigma_squared():
    for path in (Linear(), VPLinear()):
        expected = path.squared_diffusion(T) / (2 * path.sigma(T) ** 2)
        torch.testing.assert_close(Likelihood()(T, path), expected)


@pytest.mark.parametrize("path", [Linear(), VPLinear(), VPCosine(), VE()])
def test_weights_that_are_infinite_at_an_end_are_held_where_alpha_over_sigma_is_a_thousand(path):
    ends = -2 * math.log(1e-3) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    first, last = path.time_of_log_snr(ends).clamp(0, 1)
    t = torch.stack([torch.zeros_like(first), first / 2, first, last, torch.ones_like(last)])
    found = Likelihood()(t, path)
    assert torch.equal(found[:2], found[2].expand(2)) and torch.equal(found[4], found[3])
    torch.testing.assert_close(Sigmoid(-1.0)(t, path), 2 * found * torch.sigmoid(-1 - path.log_snr(t)))


def test_sigmoid_and_p2_follow_the_snr():
    path = VPCosine()
    snr = path.log_snr(T).exp()
    t = T.clone().requires_grad_()
    (slope,) = torch.autograd.grad(path.log_snr(t).sum(), t)
    torch.testing.assert_close(Sigmoid(-1.0)(T, path), -slope / (1 + math.e * snr))
    torch.testing.assert_close(P2(2.0, 0.5)(T, path), (2 + snr) ** -0.5)


def test_sigmoid_is_half_the_slope_at_a_log_snr_of_its_bias_and_that_is_minus_two_unless_said_otherwise():
    path = Linear()
    for weighting, bias in ((Sigmoid(), -2.0), (Sigmoid(1.0), 1.0)):
        t = path.time_of_log_snr(torch.tensor([bias], dtype=torch.float64))
        torch.testing.assert_close(weighting(t, path), 1 / (t * (1 - t)))  # -d log SNR / dt = 2 / (t (1 - t))


def test_sd3_weights_equal_those_of_diffusers():
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    for scheme, weighting in (("sigma_sqrt", SigmaSqrt()), ("cosmap", CosMap())):
        theirs = compute_loss_weighting_for_sd3(scheme, T).double()
        torch.testing.assert_close(weighting(T, Linear()), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "weighting", [MinSNR(), P2(), Sigmoid(), EDM(), CosMap(), SigmaSqrt(), Likelihood(), Uniform()]
)
@pytest.mark.parametrize("path", [Linear(), VPCosine(), VE()])
def test_weights_are_finite_and_not_negative_at_both_ends(weighting, path):
    ends = weighting(torch.tensor([0.0, 1.0]), path)
    assert ends.isfinite().all() and (ends >= 0).all()


@pytest.mark.parametrize(
    "make", [lambda: MinSNR(0.0), lambda: P2(0.0), lambda: EDM(0.0), lambda: SigmaSqrt(0.0)]
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match="weighting"):
        make()
