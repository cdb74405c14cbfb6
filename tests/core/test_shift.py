"""The shift of the time axis, and how much of it each rule asks for."""

import math

import pytest
import torch

from t2ilab.core.shift import constant, dimension, flux, resolution, shift_time

T = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def test_shift_adds_its_logarithm_to_the_logit():
    torch.testing.assert_close(torch.logit(shift_time(T, 3.0)), torch.logit(T) + math.log(3.0))
    torch.testing.assert_close(shift_time(T, 3.0), 3 * T / (1 + 2 * T))
    torch.testing.assert_close(shift_time(shift_time(T, 3.0), 2.0), shift_time(T, 6.0))
    torch.testing.assert_close(shift_time(shift_time(T, 3.0), 1 / 3), T)
    assert shift_time(0.0, 3.0) == 0 and shift_time(1.0, 3.0) == 1
    assert shift_time(0.5, 3.0) == pytest.approx(0.75)


def test_a_power_stretches_the_logit():
    torch.testing.assert_close(torch.logit(shift_time(T, 3.0, 1.5)), 1.5 * torch.logit(T) + math.log(3.0))
    torch.testing.assert_close(shift_time(shift_time(T, 1.0, 1.5), 1.0, 1 / 1.5), T)
    assert shift_time(0.0, 3.0, 2.0) == 0 and shift_time(1.0, 3.0, 2.0) == 1


@pytest.mark.parametrize("power", [1.0, 0.7])
def test_shift_equals_both_kinds_of_diffusers(power):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs = torch.from_numpy(scheduler.time_shift(0.63, power, T.numpy()))
    torch.testing.assert_close(shift_time(T, math.exp(0.63), power), theirs)


def test_resolution_is_the_root_of_the_ratio_of_pixels():
    assert resolution(1024, 256) == 4
    assert resolution(64, 256) == 0.25
    assert resolution(512, 512) == 1


@pytest.mark.parametrize(("tokens", "a"), [(256, 1.6487), (1024, 1.8776), (2304, 2.3319), (4096, 3.1582)])
def test_flux_has_its_published_values(tokens, a):
    edge = math.isqrt(tokens)
    assert flux(2 * edge, 2) == pytest.approx(a, abs=5e-5)
    assert flux(edge, 1) == flux(2 * edge, 2)


def test_flux_is_the_exponential_of_a_line_through_two_given_points():
    numbers = {"base_tokens": 16, "base_mu": 0.25, "max_tokens": 64, "max_mu": 1.0}
    assert flux(4, 1, **numbers) == pytest.approx(math.exp(0.25))
    assert flux(8, 1, **numbers) == pytest.approx(math.exp(1.0))
    assert flux(10, 1, **numbers) == pytest.approx(math.exp(1.0 + 36 * 0.75 / 48))


def test_dimension_has_the_value_of_rae():
    assert dimension(768, 16) == pytest.approx(6.928, abs=5e-4)
    assert dimension(16, 16) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(0.0),
        lambda: resolution(64, 0),
        lambda: flux(8, 0),
        lambda: flux(8, 1, max_tokens=256),
        lambda: dimension(0, 8),
    ],
)
def test_impossible_numbers_are_refused_by_name(make):
    with pytest.raises(ValueError, match=r"timestep\.shift\."):
        make()
