"""Biases of a reward, and its accuracy in expectation."""

import pytest
import torch

from t2ilab.eval.reward_probes import (
    by_uncertainty,
    expected_accuracy,
    length_bias,
    more_saturated,
    position_bias,
    saturation_bias,
)


def test_expected_accuracy_is_the_probability_of_the_larger_score_and_the_best_that_of_the_likelier_image():
    odds = torch.tensor([[[0.5, 0.8], [0.2, 0.5]], [[0.5, 0.6], [0.4, 0.5]]])
    found = expected_accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), odds)
    assert found["reward/expected_accuracy"].value == pytest.approx((0.8 + 0.4) / 2)
    assert found["reward/expected_best"].value == pytest.approx((0.8 + 0.6) / 2)
    half = expected_accuracy(torch.zeros(2, 2), odds, ("accuracy@samples", "best"))
    assert half["reward/accuracy@samples"].value == pytest.approx(0.5), "equal scores by half"


def test_pairs_that_are_mostly_ties_weigh_less_and_a_perfect_reward_is_the_best():
    utilities = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    odds = torch.sigmoid(utilities[:, :, None] - utilities[:, None] - 0.5)
    found = expected_accuracy(utilities, odds)
    own, best = found["reward/expected_accuracy"], found["reward/expected_best"]
    assert own.value == pytest.approx(best.value) and own.low < own.value < own.high
    p, q = odds[:, 0, 1], odds[:, 1, 0]
    pair = expected_accuracy(utilities[:, :2], odds[:, :2, :2])["reward/expected_best"].value
    assert pair == pytest.approx(float(torch.maximum(p, q).sum() / (p + q).sum()))


def test_a_reward_that_likes_first_images_is_found():
    ranks = torch.tensor([[0, 1], [1, 0]] * 20)
    fair = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 20)
    assert position_bias(fair, ranks).value == 0
    assert position_bias(torch.tensor([[1.0, 0.0]] * 40), ranks).value == pytest.approx(0.5)
    assert position_bias(torch.tensor([[1.0, 0.0]] * 40), torch.tensor([[0, 1]] * 39 + [[0, 0]])).value == 0


def test_a_reward_that_likes_long_prompts_is_found():
    prompts = ["a" * n for n in range(1, 9)]
    scores, ranks = torch.arange(8.0)[:, None].repeat(1, 2), torch.tensor([[0, 1]] * 8)
    assert length_bias(scores, ranks, prompts).value == pytest.approx(1)
    assert length_bias(-scores, ranks, prompts).value == pytest.approx(-1)
    assert length_bias(torch.zeros(8, 2), ranks, prompts).value == 0
    scores[0, 1], ranks[0, 1] = 99, -1
    assert length_bias(scores, ranks, prompts).value == pytest.approx(1), (
        "an image that is not there says nothing"
    )


def test_a_reward_that_likes_strong_colours_is_found():
    images = torch.rand(6, 2, 3, 4, 4)
    more = more_saturated(images)
    grey = images.mean(2, keepdim=True).expand_as(images)
    assert torch.allclose(more_saturated(grey), grey, atol=1e-6) and (more >= 0).all() and (more <= 1).all()
    spread = [(x.amax(2) - x.amin(2)).mean((1, 2, 3)) for x in (images, more)]
    found = saturation_bias(*spread, std=0.5)
    assert found.value == pytest.approx(float((spread[1] - spread[0]).mean() / 0.5)) and found.low > 0


def test_accuracy_is_told_for_the_pairs_that_a_model_is_sure_of_and_for_the_others():
    differences = torch.tensor([1.0, 1.0, 1.0, -1.0])
    found = by_uncertainty(differences, torch.tensor([0.1, 0.2, 3.0, 4.0]))
    assert found["reward/accuracy_sure"].value == 1 and found["reward/accuracy_unsure"].value == 0.5
