"""Power-function profiles: their widths, inner products and fits, against integrals and closed forms."""

import math

import pytest
import torch

from t2ilab.core.posthoc import WIDEST, Profile, factor, inner, order_of, shares

WIDTHS = (0.05, 0.10)


def stored(steps, widths=WIDTHS):
    return [Profile(order_of(width), step) for step in steps for width in widths]


@pytest.mark.parametrize(
    ("width", "order"), [(0.05, 16.9722), (0.10, 6.9372), (0.15, 3.5579), (0.20, 1.8262)]
)
def test_orders_are_those_of_the_paper(width, order):
    assert order_of(width) == pytest.approx(order, abs=5e-5)


@pytest.mark.parametrize("width", [0.001, 0.03, 0.07, 0.25, WIDEST])
def test_the_width_of_an_order_is_its_relative_std(width):
    g = order_of(width)
    assert g >= -1e-9
    assert ((g + 1) / ((g + 2) ** 2 * (g + 3))) ** 0.5 == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, math.nan])
def test_an_impossible_width_is_refused(width):
    with pytest.raises(ValueError, match="sigma_rel must be in"):
        order_of(width)


def test_the_first_update_takes_the_weights_as_they_are():
    assert factor(6.94, 1) == 0.0
    assert factor(0.0, 4) == 0.75  # order 0 is the plain mean


@pytest.mark.parametrize("width", [*WIDTHS, 0.2])
def test_of_weights_on_a_line_mean_and_spread_are_those_of_the_profile(width):
    """theta = n: mean t (g + 1) / (g + 2), std sigma_rel t."""
    g, t = order_of(width), 4000
    mean = square = 0.0
    for n in range(1, t + 1):
        beta = factor(g, n)
        mean, square = beta * mean + (1 - beta) * n, beta * square + (1 - beta) * n**2
    assert mean / t == pytest.approx((g + 1) / (g + 2), rel=1e-3)
    assert (square - mean**2) ** 0.5 / t == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Profile(16.97, 400), Profile(6.94, 1000)),
        (Profile(6.94, 1000), Profile(16.97, 400)),
        (Profile(1.5, 700), Profile(1.5, 700)),
        (Profile(0.0, 100), Profile(16.97, 1000)),
    ],
)
def test_inner_products_are_the_integrals(a, b):
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * min(a.step, b.step)
    product = torch.ones_like(s)
    for p in (a, b):
        product *= (p.order + 1) * (s / p.step) ** p.order / p.step
    assert inner(a, b) == pytest.approx(float(product.mean()) * min(a.step, b.step), rel=1e-6)
    assert inner(a, b) == pytest.approx(inner(b, a), rel=1e-12)


@pytest.mark.parametrize("index", range(8))
def test_a_profile_that_was_stored_is_made_of_itself_alone(index):
    profiles = stored([100, 200, 300, 400])
    x, error = shares(profiles, profiles[index])
    torch.testing.assert_close(x, torch.eye(8, dtype=torch.float64)[index], rtol=0, atol=1e-12)
    assert error < 1e-6


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15, 0.25])
def test_shares_sum_to_one_and_more_snapshots_fit_better(width):
    errors = []
    for count in (2, 8, 32):
        profiles = stored([round(1000 * (i + 1) / count) for i in range(count)])
        x, error = shares(profiles, Profile(order_of(width), 1000))
        assert float(x.sum()) == pytest.approx(1.0, abs=1e-12)
        errors.append(error)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_error_is_the_distance_of_the_profiles():
    profiles, wanted = stored([500, 1000]), Profile(order_of(0.2), 1000)
    x, error = shares(profiles, wanted)
    s = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 1000

    def density(p):
        return torch.where(s <= p.step, (p.order + 1) * (s / p.step) ** p.order / p.step, 0.0)

    made = sum(share * density(p) for share, p in zip(x, profiles, strict=True))
    expected = ((made - density(wanted)).square().sum() / density(wanted).square().sum()).sqrt()
    assert error == pytest.approx(float(expected), rel=1e-3)
    assert error > 0.1
