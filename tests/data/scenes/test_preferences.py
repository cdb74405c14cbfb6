"""Judged pairs: labels with the closed-form Bradley-Terry frequency, and the bounds that follow from it."""

import math

import numpy as np
import pytest
import torch

from t2ilab.data.comparison_source import ABSENT, ends
from t2ilab.data.scenes import Preferences, check, judge_batch, parse
from t2ilab.data.scenes.preferences import ranks_of, utility
from t2ilab.data.scenes.score import truth
from t2ilab.data.scenes.world import HELD_OUT

PAIRS = Preferences("train", size=3000)
ALL = [PAIRS[i] for i in range(len(PAIRS))]


def test_the_probability_is_the_sigmoid_of_the_difference_of_utilities():
    for pair in ALL[:200]:
        wanted = parse(pair.prompt)
        first, second = (utility(wanted, scene) for scene in pair.scenes)
        assert pair.utilities == pytest.approx((first, second))
        assert pair.wins(0, 1) == pytest.approx(1 / (1 + math.exp(-(first - second))))


def test_utility_is_what_the_score_of_the_true_image_says():
    pair = next(pair for pair in ALL if pair.utilities[0] == 6)  # right, all attributes, fully lit
    result = check(parse(pair.prompt), truth(pair.scenes[0]))
    assert result.passed and result.share == 1 and result.style == 1


def test_labels_occur_as_often_as_their_probability_says():
    p, label = np.array([pair.wins(0, 1) for pair in ALL]), np.array([pair.label for pair in ALL])
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)):
        chosen = (p >= low) & (p < high)
        error = math.sqrt((p[chosen] * (1 - p[chosen])).sum()) / chosen.sum()
        assert abs(label[chosen].mean() - p[chosen].mean()) < 4 * error


def test_the_better_image_by_utility_is_right_as_often_as_the_best_accuracy():
    right = [0.5 if p.wins(0, 1) == 0.5 else (p.wins(0, 1) > 0.5) == p.label for p in ALL]
    assert 0.7 < PAIRS.best_accuracy() < 0.9
    assert np.mean(right) == pytest.approx(PAIRS.best_accuracy(), abs=0.03)


def test_the_best_loss_is_the_mean_entropy_and_below_a_coin():
    p = np.array([pair.wins(0, 1) for pair in ALL])
    assert PAIRS.best_loss() == pytest.approx(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p)))
    assert 0.3 < PAIRS.best_loss() < math.log(2)


def test_both_labels_and_ties_of_content_occur():
    assert 0.45 < np.mean([pair.label for pair in ALL]) < 0.55
    assert all(len(pair.scenes) == 2 and pair.scenes[0] != pair.scenes[1] for pair in ALL)


def test_pairs_are_pure_and_splits_have_different_scenes():
    assert Preferences("train", size=5)[4] == PAIRS[4]
    assert Preferences("train", size=5, seed=1)[4] != PAIRS[4]
    assert {Preferences("val", size=50)[i].scenes for i in range(50)}.isdisjoint({p.scenes for p in ALL})
    assert PAIRS.digest() != Preferences("val", size=3000).digest()


def test_no_attempt_shows_a_held_out_pair():
    shown = {(o.color, o.shape) for pair in ALL for scene in pair.scenes for o in scene.objects}
    assert not shown & HELD_OUT


def test_the_judge_sees_the_images_of_pairs_as_they_are():
    images = PAIRS.images(range(60))
    assert images.shape == (60, 2, 3, 64, 64)
    seen = judge_batch(images.flatten(0, 1))
    for i, pair in enumerate(ALL[:60]):
        for k, scene in enumerate(pair.scenes):
            mine, true = (check(parse(pair.prompt), one) for one in (seen[2 * i + k], truth(scene)))
            assert (mine.passed, mine.share) == (true.passed, true.share)
    assert PAIRS.ranks(range(60)).tolist() == [list(pair.ranks) for pair in ALL[:60]]
    assert PAIRS.prompts([3]) == [ALL[3].prompt]


@pytest.mark.parametrize(("options", "message"), [({"split": "compose"}, "split"), ({"size": 0}, "size")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Preferences(**options)


def test_ties_occur_as_often_as_rao_and_kupper_say():
    tied = Preferences("train", size=3000, ties=0.5)
    every = [tied[i] for i in range(3000)]
    expected = np.mean([1 - one.wins(0, 1) - one.wins(1, 0) for one in every])
    found = np.mean([one.ranks[0] == one.ranks[1] for one in every])
    assert 0.1 < expected < 0.3 and abs(found - expected) < 0.03
    decided = [one for one in every if 1 in one.ranks]
    right = [
        (1 + np.sign((o.utilities[0] - o.utilities[1]) * (o.ranks[1] - o.ranks[0]))) / 2 for o in decided
    ]
    assert np.mean(right) == pytest.approx(tied.best_accuracy(), abs=0.03)
    assert tied.best_accuracy() > PAIRS.best_accuracy(), "who is undecided is no longer wrong"


def test_the_best_of_a_ranking_is_so_as_often_as_the_softmax_of_utilities_says():
    lists = Preferences("train", size=1500, images=4)
    every = [lists[i] for i in range(1500)]
    assert lists.images([0]).shape == (1, 4, 3, 64, 64) and sorted(every[0].ranks) == [0, 1, 2, 3]
    share = np.array([np.exp(one.utilities) / np.sum(np.exp(one.utilities)) for one in every])
    first = np.array([[rank == 0 for rank in one.ranks] for one in every])
    assert np.abs(first.mean(0) - share.mean(0)).max() < 0.04
    gain = (first * share).sum(1).mean()
    assert gain == pytest.approx((share**2).sum(1).mean(), abs=0.03)
    assert Preferences("train", size=5, images=4, ties=0.5).best_accuracy() is None


def test_ranks_are_shared_within_the_distance_of_a_tie():
    assert ranks_of([1.0, 3.0, 2.0], 0.0) == (2, 0, 1)
    assert ranks_of([1.0, 3.0, 2.6], 0.5) == (1, 0, 0)
    assert ranks_of([0.0, 0.4, 0.8], 0.5) == (1, 0, 0), "counted from the best of a rank"
    with pytest.raises(ValueError, match=r"data\.images >= 2"):
        Preferences(images=1)


def test_the_ends_of_a_comparison_are_its_best_and_worst_and_ties_have_none():
    kept, sides = ends(torch.tensor([[1, 0, 2], [0, 0, 0], [1, 0, ABSENT]]))
    assert kept.tolist() == [0, 2] and sides.tolist() == [[1, 2], [1, 0]]
