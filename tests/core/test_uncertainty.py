"""EDM2's learned weights."""

import pytest
import torch

from t2ilab.core.path import VE, Linear
from t2ilab.core.uncertainty import Uncertainty
from t2ilab.core.weighting import EDM

T = torch.tensor([0.1, 0.5, 0.9])


def with_bias(value):
    weighting = Uncertainty()
    torch.nn.init.constant_(weighting.linear.bias, value)
    return weighting


def test_at_the_start_the_loss_is_that_of_the_base():
    error = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(Uncertainty().settle(error, T, Linear())[1], error)
    base = EDM(1.0)
    assert torch.equal(Uncertainty(base)(T, VE()), base(T, VE()))
    assert Uncertainty(base).space is base.space and Uncertainty().space is None


def test_a_constant_uncertainty_divides_what_an_error_counts_and_adds_itself_to_the_loss():
    error = torch.tensor([1.0, 2.0, 3.0])
    counted, loss = with_bias(0.7).settle(error, T, Linear())
    torch.testing.assert_close(counted, error / torch.tensor(0.7).exp())
    torch.testing.assert_close(loss, counted + 0.7)


def test_the_minimum_is_where_exp_u_is_the_error():
    error = torch.tensor([2.5])
    for value, sign in ((2.5, 0), (2.0, -1), (3.0, 1)):
        weighting = with_bias(float(torch.tensor(value).log()))
        weighting.settle(error, T[:1], Linear())[1].sum().backward()
        gradient = float(weighting.linear.bias.grad)
        assert (abs(gradient) < 1e-6) if sign == 0 else gradient * sign > 0


def test_features_are_cosines_of_an_eighth_of_the_log_signal_to_noise_ratio():
    """u = sum_i w_i sqrt(2) cos(2 pi (f_i c + phi_i)) with c = -log SNR / 8, held where log SNR is beyond 30."""
    weighting = Uncertainty(frequencies=3)
    with torch.no_grad():
        weighting.linear.weight.copy_(torch.tensor([[0.3, -1.0, 2.0]]))
    for log_snr, c in ((4.0, -0.5), (-2.0, 0.25), (0.0, 0.0), (40.0, -3.75), (-40.0, 3.75)):
        t = Linear().time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64))
        parts = (2 * torch.pi * (weighting.frequencies * c + weighting.phases)).cos() * 2**0.5
        expected = 0.3 * parts[0] - parts[1] + 2 * parts[2]
        torch.testing.assert_close(weighting.log_variance(t, Linear()), expected[None], rtol=1e-4, atol=1e-4)
    assert ((weighting.phases >= 0) & (weighting.phases < 1)).all()


def test_it_learns_the_error_of_every_noise_level():
    weighting = Uncertainty()
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.02)
    t = torch.linspace(0.05, 0.95, 64)
    error = 0.2 + 3 * t
    for _ in range(400):
        optimizer.zero_grad()
        weighting.settle(error, t, Linear())[1].mean().backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variance(t, Linear()).exp(), error, rtol=0.1, atol=0.05)


def test_it_sees_the_noise_level_and_not_the_clock():
    """Linear and VE paths have different times for one signal-to-noise ratio."""
    weighting = Uncertainty()
    torch.nn.init.normal_(weighting.linear.weight)
    same = VE().time_of_log_snr(Linear().log_snr(T))
    linear, edm = weighting.log_variance(T, Linear()), weighting.log_variance(same, VE())
    torch.testing.assert_close(linear, edm, rtol=1e-4, atol=1e-4)


def test_features_are_the_same_in_every_run():
    torch.manual_seed(0)
    first = Uncertainty()
    torch.manual_seed(1)
    assert torch.equal(first.frequencies, Uncertainty().frequencies)


def test_no_frequencies_are_refused():
    with pytest.raises(ValueError, match=r"weighting\.frequencies"):
        Uncertainty(frequencies=0)
