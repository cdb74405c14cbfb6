"""Identities of the noise processes, in float64."""

import math

import pytest
import torch

from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear

PATHS = [Linear(), Trig(), VPLinear(), VPCosine(), VE()]
T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
by_name = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)


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
def test_ends_are_clean_and_noise(path):
    ends = torch.tensor([0.0, 1.0])
    assert path.alpha(ends)[0] == pytest.approx(1, abs=1e-6)
    assert path.sigma(ends)[0] == 0
    assert path.sigma(ends)[1] == pytest.approx(path.prior_std, rel=1e-4)
    assert torch.isfinite(torch.stack([path.dalpha(ends), path.dsigma(ends), path.q(ends)])).all()


@pytest.mark.parametrize("path", [Linear(), Trig(), VPCosine()], ids=lambda path: type(path).__name__)
def test_no_data_is_left_at_the_end_of_zero_terminal_snr_paths(path):
    assert float(path.alpha(torch.tensor(1.0))) == 0.0
    assert float(path.log_snr(torch.tensor(1.0))) == -math.inf


@pytest.mark.parametrize(
    "path", [Trig(), VPLinear(), VPLinear(0.2, 5.0), VPCosine(), VPCosine(0.05)], ids=lambda p: str(vars(p))
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
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match="path"):
        make()
