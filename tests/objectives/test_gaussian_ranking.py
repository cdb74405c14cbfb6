"""Losses of utilities with a spread, on numbers that are known in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.gaussian_ranking import GaussianUtility, decided_log_loss, log_loss, quadrature
from t2ilab.objectives.ranking import BradleyTerry

PROBIT, LOGISTIC = GaussianUtility(link="probit"), GaussianUtility(link="logistic")


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_quadrature_has_the_moments_of_a_standard_normal():
    points, weights = quadrature()
    for power, moment in ((0, 1), (1, 0), (2, 1), (4, 3), (6, 15), (8, 105)):
        assert float((weights * points**power).sum()) == pytest.approx(moment, abs=1e-9)


def test_the_expected_loss_at_equal_means_is_the_integral_and_grows_with_the_spread():
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.softmax(-z.square() / 2, 0)
    spreads = tensor(0, 1, 2, 4)
    expected = (density * -F.logsigmoid(spreads[:, None] * z)).sum(1)
    found = log_loss(torch.zeros(4, dtype=torch.float64), spreads, "logistic")
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.tolist() == pytest.approx([0.6931, 0.8061, 1.0677, 1.7498], abs=2e-4)


def test_the_expected_loss_is_that_of_many_draws_and_lies_above_the_log_loss():
    d, spread = tensor(0.7), tensor(1.3)
    draws = d + spread * torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert log_loss(d, spread, "logistic").item() == pytest.approx(
        float(-F.logsigmoid(draws).mean()), abs=4e-3
    )
    exact = float(-torch.sigmoid(draws).mean().log())
    assert decided_log_loss(d, spread, "logistic").item() == pytest.approx(exact, abs=4e-3)
    assert decided_log_loss(d, spread, "logistic") < log_loss(d, spread, "logistic")


def test_the_probit_is_the_normal_distribution_of_the_difference_over_the_spread():
    d, spread = tensor(0.0, 1.0, -2.0), tensor(3.0, 0.5, 2.0)
    expected = -torch.distributions.Normal(0, 1).cdf(d / spread).double().log()
    assert torch.allclose(log_loss(d, spread, "probit"), expected, atol=1e-6)
    assert log_loss(tensor(-60.0), tensor(1.0), "probit").isfinite().all(), "far out too"


def test_without_a_spread_the_expected_loss_is_that_of_bradley_and_terry():
    ranks = torch.tensor([[0, 1, 2], [1, 1, 0], [0, 0, 0], [1, 0, -1]])
    scores = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(LOGISTIC.loss(scores, ranks), BradleyTerry().loss(scores, ranks), atol=1e-5)


@pytest.mark.parametrize("loss", [PROBIT, LOGISTIC])
def test_a_spread_falls_where_the_means_are_right_and_grows_where_they_are_wrong(loss):
    for ranks, sign in (([0, 1], 1), ([1, 0], -1)):
        spread = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
        loss.pairs(torch.tensor([[3.0, 0.0]]).double(), spread, torch.tensor([ranks])).sum().backward()
        assert (spread.grad.sign() == sign).all() or (loss is LOGISTIC and sign == -1), (
            "eq. (2) never rewards one"
        )


def test_a_tie_counts_half_a_win_of_each_and_is_zero_at_equal_means():
    spread = torch.full((1, 2), 0.7, dtype=torch.float64)
    assert PROBIT.pairs(torch.zeros(1, 2).double(), spread, torch.tensor([[0, 0]])).item() == pytest.approx(
        0, abs=1e-12
    )
    mean = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    won, lost = (PROBIT.pairs(mean, spread, torch.tensor([order])).item() for order in ([0, 1], [1, 0]))
    tied = PROBIT.pairs(mean, spread, torch.tensor([[0, 0]])).item()
    assert tied == pytest.approx((won + lost) / 2 - math.log(2))


class Student(torch.nn.Module):
    """Scores an image by its mean in [0, 1] and is as unsure as its token says."""

    uncertain = True

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(1.0))

    def gaussian(self, images, ids):
        assert images.min() >= 0 and images.max() <= 1
        return self.gain * images.flatten(2).mean(2), self.gain * 0.1 * (ids + torch.arange(3))


def test_a_comparison_is_that_of_its_images_and_says_how_unsure_it_is_of_those_it_has():
    levels = torch.tensor([[1.0, -1.0, 0.0], [-0.5, 0.5, 1.0]])
    images = levels[:, :, None, None, None].expand(2, 3, 3, 2, 2)
    ranks = torch.tensor([[0, 1, 2], [0, 1, -1]])
    batch = Batch(images, extras={"ids": torch.tensor([[1], [4]]), "ranks": ranks})
    PROBIT.bind(Student())
    losses = PROBIT(batch, RowRng(0, 0, torch.arange(2), 2))
    spread = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    wanted = PROBIT.pairs((levels + 1) / 2, spread, ranks)
    torch.testing.assert_close(losses.terms["gaussian_utility"], wanted)
    assert losses.notes["uncertainty"].tolist() == pytest.approx([0.2, 0.45])
    assert not any(note.requires_grad for note in losses.notes.values())


def test_the_loss_of_a_win_keeps_the_shape_of_the_differences():
    d, spread = torch.randn(3, 2, 4, dtype=torch.float64), torch.rand(3, 2, 4, dtype=torch.float64)
    for function in (log_loss, decided_log_loss):
        whole = function(d, spread, "logistic")
        alone = [function(*pair, "logistic") for pair in zip(d.view(-1, 1), spread.view(-1, 1), strict=True)]
        torch.testing.assert_close(whole, torch.cat(alone).view(3, 2, 4))


def test_students_and_losses_that_do_not_fit_are_refused():
    sure, unsure = torch.nn.Module(), torch.nn.Module()
    unsure.uncertain = True
    with pytest.raises(ValueError, match=r"model\.uncertain=true"):
        GaussianUtility(link="probit").bind(sure)
    with pytest.raises(ValueError, match="loss=bradley_terry teaches no spread"):
        BradleyTerry().bind(unsure)
    with pytest.raises(ValueError, match=r"loss\.link must be one of probit, logistic"):
        GaussianUtility(link="cauchit")
