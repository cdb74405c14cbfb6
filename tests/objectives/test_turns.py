import pytest
import torch
from torch import nn

from t2ilab.objectives.base import NOTHING, Objective
from t2ilab.objectives.turns import Balance, Player


def player(network, clip=0.0):
    return Player(
        network,
        optimizer=lambda named: torch.optim.SGD([p for _, p in named], lr=1.0),
        schedule=lambda step, total: 1.0,
        clip=clip,
    )


class Duel(Objective):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(2, 2)
        self.critic = player(nn.Linear(3, 1))

    def forward(self, batch, rng, player="student", kept=NOTHING):
        raise NotImplementedError


def test_the_adaptive_weight_of_a_linear_layer_matches_the_closed_form():
    """Two terms a . (W h) and b . (W h): their gradients at W are a h^T and b h^T, with norms |a||h| and |b||h|."""
    torch.manual_seed(0)
    layer = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    h, a, b = (torch.randn(n, dtype=torch.float64) for n in (4, 3, 3))
    others, term = (torch.autograd.grad(v @ (layer @ h), layer)[0] for v in (a, b))
    weight = Balance(layer, weight=0.5, largest=1e4)(others, term)
    expected = 0.5 * a.norm() * h.norm() / (b.norm() * h.norm() + 1e-4)
    assert weight.item() == pytest.approx(expected.item(), rel=1e-12)
    assert Balance(layer, 0.5, 1e4)(3 * others, term).item() == pytest.approx(3 * weight.item(), rel=1e-12)


def test_the_adaptive_weight_is_bounded_and_finite_without_any_gradient():
    layer = nn.Parameter(torch.ones(2))
    balance = Balance(layer, weight=2.0, largest=10.0)
    assert balance(torch.ones(2), torch.zeros(2)).item() == 20.0
    assert balance(torch.zeros(2), torch.zeros(2)).item() == 0.0


def test_the_adaptive_weight_carries_no_gradient():
    layer = nn.Parameter(torch.ones(2))
    others, term = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert not Balance(layer, 1.0, 1e4)(others, term).requires_grad


@pytest.mark.parametrize(("weight", "largest"), [(-1.0, 1.0), (1.0, 0.0), (1.0, float("nan"))])
def test_an_impossible_balance_is_refused(weight, largest):
    with pytest.raises(ValueError, match="balanced term"):
        Balance(nn.Parameter(torch.ones(1)), weight, largest)


def test_players_are_found_by_their_attributes_and_what_is_left_learns_with_the_student():
    duel = Duel()
    assert duel.turns(7) == ("student", "critic")
    assert [name for name, _ in duel.beside_student()] == ["scale", "head.weight", "head.bias"]
    assert list(duel.players) == ["critic"] and duel.balances("student") == {}


def test_a_negative_clip_of_a_player_is_refused():
    with pytest.raises(ValueError, match="clip of a player"):
        player(nn.Linear(1, 1), clip=-1.0)
