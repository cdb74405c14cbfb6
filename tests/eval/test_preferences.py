"""Accuracy and calibration of differences of scores."""

import math

import pytest
import torch

from t2ilab.eval.preferences import Calibration, calibration_error, fitted_temperature, preference_metrics


def drawn(scale, n=40_000):
    """Differences of winner and loser where sigmoid(scale d) is the truth."""
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(n, generator=generator, dtype=torch.float64)
    first = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(scale * d)
    return torch.where(first, d, -d)


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_temperature_is_that_which_made_the_labels(scale):
    found = Calibration.of(drawn(scale))
    assert found.temperature == pytest.approx(1 / scale, rel=0.05)
    assert found.ece < 0.01 and found.nll <= found.nll_raw + 1e-12


def test_scores_at_the_temperature_of_the_labels_are_calibrated_and_bolder_ones_are_not():
    d = drawn(1.0)
    assert calibration_error(d) < 0.01 < calibration_error(5 * d)


def test_scores_that_are_never_wrong_have_the_least_temperature_and_useless_ones_the_largest():
    assert fitted_temperature(torch.ones(9, dtype=torch.float64)) == pytest.approx(1e-4, rel=1e-3)
    assert fitted_temperature(torch.tensor([1.0, -1.0], dtype=torch.float64)) == pytest.approx(1e4, rel=1e-3)


def test_accuracy_counts_equal_scores_half_and_stands_beside_the_best():
    found = preference_metrics(torch.tensor([1.0, 2.0, 0.0, -1.0]), 0.9)
    assert found["reward/accuracy"].value == pytest.approx(2.5 / 4)
    assert found["reward/best_accuracy"].value == 0.9
    assert found["reward/accuracy"].low < 2.5 / 4 < found["reward/accuracy"].high
    assert "reward/best_accuracy" not in preference_metrics(torch.ones(3), None)
    assert found["reward/nll"].value <= math.log(2) + 1e-9
