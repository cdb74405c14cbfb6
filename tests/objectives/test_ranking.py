"""Losses of comparisons on numbers that are known in closed form."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.ranking import BradleyTerry, PlackettLuce, decisions, notes_of, ordered_right

BT, PL = BradleyTerry(), PlackettLuce()


def scores(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def ranks(*rows):
    return torch.tensor(rows)


def test_a_pair_is_the_log_loss_of_the_difference():
    s = scores([0.3, 1.1], [2.0, -1.0])
    found = BT.loss(s, ranks([0, 1], [1, 0]))
    assert found.tolist() == pytest.approx(
        [-F.logsigmoid(torch.tensor(d)).item() for d in (-0.8, -3.0)], rel=1e-5
    )


def test_a_ranking_of_two_is_a_pair():
    s = torch.randn(6, 2, dtype=torch.float64)
    decided = ranks(*[[0, 1], [1, 0]] * 3)
    assert torch.allclose(PL.loss(s, decided), BT.loss(s, decided))
    tied = ranks(*[[0, 0]] * 6)
    assert torch.allclose(PL.loss(s, tied), BT.loss(s, tied) + math.log(2)), "but for the constant of a tie"


@pytest.mark.parametrize("loss", [BT, PL])
def test_what_is_added_to_all_scores_of_a_prompt_changes_nothing(loss):
    s, r = torch.randn(3, 4, dtype=torch.float64), ranks([0, 1, 2, 3], [2, 0, 0, 1], [1, 0, -1, -1])
    assert torch.allclose(loss.loss(s, r), loss.loss(s + 7, r))


def test_equal_scores_of_a_ranking_give_the_log_of_the_number_of_orders():
    assert PL.loss(torch.zeros(1, 5), ranks([3, 1, 0, 2, 4])).item() == pytest.approx(math.log(120))


def test_a_ranking_is_a_choice_among_what_is_left_place_by_place():
    s = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    e = s.exp()[0]
    probability = e[2] / e.sum() * e[0] / (e[0] + e[1])
    assert PL.loss(s, ranks([1, 2, 0])).item() == pytest.approx(-math.log(probability))
    total = sum(math.exp(-PL.loss(s, ranks(list(order))).item()) for order in permutations(range(3)))
    assert total == pytest.approx(1), "a distribution over orders"


def test_a_tie_is_least_at_equal_scores_where_it_is_zero_and_pulls_both_ways():
    tied = ranks([0, 0])
    assert BT.loss(torch.zeros(1, 2), tied).item() == pytest.approx(0, abs=1e-7)
    s = scores([1.0, 0.0])
    BT.loss(s, tied).sum().backward()
    assert s.grad[0, 0] > 0 and s.grad[0, 0] == pytest.approx(-s.grad[0, 1])


@pytest.mark.parametrize("loss", [BT, PL])
def test_images_that_a_comparison_does_not_have_count_for_nothing(loss):
    long, short = scores([0.2, 1.0, 9.0]), scores([0.2, 1.0])
    one, other = loss.loss(long, ranks([0, 1, -1])), loss.loss(short, ranks([0, 1]))
    assert one.item() == pytest.approx(other.item())
    one.sum().backward()
    assert long.grad.isfinite().all() and long.grad[0, 2] == 0


@pytest.mark.parametrize("loss", [BT, PL])
def test_the_order_in_which_images_are_given_does_not_matter(loss):
    s, r = torch.randn(1, 4, dtype=torch.float64), ranks([1, 0, 0, 2])
    for order in permutations(range(4)):
        assert loss.loss(s[:, order], r[:, order]).item() == pytest.approx(loss.loss(s, r).item())


def test_the_pairs_of_a_longer_ranking_are_averaged():
    s = torch.tensor([[2.0, 1.0, 0.0]])
    expected = -(2 * F.logsigmoid(torch.tensor(1.0)) + F.logsigmoid(torch.tensor(2.0))) / 3
    assert BT.loss(s, ranks([0, 1, 2])).item() == pytest.approx(expected.item(), rel=1e-6)


def test_decided_pairs_are_counted_once_and_equal_scores_are_half_right():
    r = ranks([0, 1, 1], [0, 0, -1])
    wins, ties, pairs = decisions(r)
    assert wins.sum((1, 2)).tolist() == [2, 0]
    assert ties.sum((1, 2)).tolist() == [2, 2] and pairs.sum((1, 2)).tolist() == [6, 2]
    right, decided = ordered_right(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), r)
    assert (right.sum() / decided.sum()).item() == 0.75


def test_notes_are_of_the_images_that_are_there():
    long, short = torch.tensor([[0.2, 1.0, 9.0], [1.0, 3.0, 2.0]]), torch.tensor([[0.2, 1.0]])
    found, alone = notes_of(long, ranks([0, 1, -1], [1, 0, 1])), notes_of(short, ranks([0, 1]))
    assert found["accuracy"].tolist() == [0.0, 1.0]
    torch.testing.assert_close(found["spread"], torch.tensor([alone["spread"][0], 1.0]))
    torch.testing.assert_close(alone["spread"], short.std(1))


class Student(torch.nn.Module):
    """Scores an image by its mean in [0, 1] and what its token adds."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, images, ids):
        assert images.min() >= 0 and images.max() <= 1
        return self.gain * (images.flatten(2).mean(2) + ids)


def test_a_comparison_is_that_of_the_scores_of_its_images_and_notes_have_no_graph():
    levels = torch.tensor([[1.0, -1.0, 0.0], [-0.5, 0.5, 1.0]])
    images = levels[:, :, None, None, None].expand(2, 3, 3, 2, 2)
    ranked, ids = ranks([0, 1, 2], [0, 1, -1]), torch.tensor([[0], [3]])
    method = BradleyTerry()
    method.bind(Student())
    losses = method(Batch(images, extras={"ids": ids, "ranks": ranked}), RowRng(0, 0, torch.arange(2), 2))
    found = 2 * ((levels + 1) / 2 + ids)
    torch.testing.assert_close(losses.terms["bradley_terry"], BT.loss(found, ranked))
    assert losses.notes["accuracy"].tolist() == [pytest.approx(2 / 3), 0.0]
    assert not any(note.requires_grad for note in losses.notes.values())
