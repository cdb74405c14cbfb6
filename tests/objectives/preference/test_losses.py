"""The DPO family on numbers that are known in closed form."""

import math

import pytest
import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.frozen import Frozen
from t2ilab.core.loss_aware import LossAware
from t2ilab.core.path import Linear
from t2ilab.core.prediction import X0, Eps, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch
from t2ilab.objectives.preference.base import Errors, notes_of
from t2ilab.objectives.preference.losses import DPO, IPO, KTO, Hinge, MaPO, SFTWinners
from t2ilab.objectives.roles import Roles

BETA = 8.0
ERROR = {"space": "own", "beta": BETA, "numbers": None}
TIMES = Uniform(low=0.1, high=0.9)


def methods():
    return {
        "dpo": DPO(TIMES, **ERROR),
        "ipo": IPO(TIMES, **ERROR),
        "hinge": Hinge(TIMES, **ERROR),
        "kto": KTO(TIMES, **ERROR, winner_weight=1.0, loser_weight=1.0),
        "mapo": MaPO(TIMES, space="own", beta=0.1, scale=1000.0, shape=0.5),
        "sft_winners": SFTWinners(TIMES, space="own"),
    }


def errors(*rows, reference=None):
    student = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    return Errors(student, None if reference is None else torch.tensor(reference, dtype=torch.float64))


class Linear2(nn.Module):
    """A backbone with one weight: output w x."""

    def __init__(self, weight=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x, time, condition, taps=()):
        return self.weight * x, {}


def denoiser(weight=0.5, prediction=None):
    return Denoiser(Linear2(weight), Linear(), prediction or Velocity())


def bound(method, student=None, reference=None):
    student = student or denoiser()
    method.bind(student, Roles(reference=reference or Frozen(denoiser())))
    return method


def batch(rows=4, same=False):
    x0 = torch.randn(rows, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Batch(x0[:, :1].expand_as(x0) if same else x0)


def rng(rows=4, step=0):
    return RowRng(0, step, torch.arange(rows), rows)


def test_dpo_at_the_start_is_log_2_with_gradients_of_a_quarter_of_beta():
    at = errors([0.3, 0.7], reference=[[0.3, 0.7]])
    loss = methods()["dpo"].loss(at, BETA)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert at.student.grad.tolist() == [[pytest.approx(BETA / 4), pytest.approx(-BETA / 4)]]


def test_swapping_winner_and_loser_flips_the_margin_and_a_common_error_changes_nothing():
    dpo = methods()["dpo"]
    at = errors([0.2, 0.9], reference=[[0.4, 0.5]])
    swapped = errors([0.9, 0.2], reference=[[0.5, 0.4]])
    assert at.margin.item() == pytest.approx(0.6) and swapped.margin.item() == pytest.approx(-0.6)
    odds = dpo.loss(swapped, BETA) - dpo.loss(at, BETA)
    assert odds.item() == pytest.approx(BETA / 2 * 0.6), "-ln s(-a) + ln s(a) = a"
    shifted = errors([1.2, 1.9], reference=[[0.4, 0.5]])
    assert dpo.loss(shifted, BETA).item() == pytest.approx(dpo.loss(at, BETA).item())


def test_ipo_is_least_at_a_margin_of_one_over_two_beta():
    ipo = methods()["ipo"]
    best = errors([0.0, 0.5 / BETA], reference=[[0.0, 0.0]])
    loss = ipo.loss(best, BETA)
    loss.backward()
    assert loss.item() == 0 and best.student.grad.abs().max() == 0
    assert ipo.loss(errors([0.0, 1.0], reference=[[0.0, 0.0]]), BETA).item() > 0


def test_hinge_is_one_at_the_start_and_flat_beyond_a_margin_of_one_over_beta():
    hinge = methods()["hinge"]
    assert hinge.loss(errors([0.3, 0.3], reference=[[0.3, 0.3]]), BETA).item() == 1
    far = errors([0.0, 1.01 / BETA], reference=[[0.0, 0.0]])
    hinge.loss(far, BETA).backward()
    assert far.student.grad.abs().max() == 0


def test_kto_at_the_start_is_half_its_weight_and_rewards_both_directions():
    kto = KTO(TIMES, **ERROR, winner_weight=1.0, loser_weight=3.0)
    at = errors([0.3, 0.7], reference=[[0.3, 0.7]])
    loss = kto.loss(at, BETA)
    assert loss.item() == pytest.approx(0.5 * (1 + 3) / 2)
    loss.backward()
    winner, loser = at.student.grad[0].tolist()
    assert winner == pytest.approx(BETA / 8) and loser == pytest.approx(-3 * BETA / 8)


def test_kto_counts_gains_from_the_mean_of_the_batch_if_that_is_positive():
    kto = methods()["kto"]
    everywhere = errors([0.1, 0.1], [0.1, 0.1], reference=[[0.4, 0.4]] * 2)  # all errors fell by 0.3
    assert torch.allclose(kto.loss(everywhere, BETA), torch.full((2,), 0.5, dtype=torch.float64))
    worse = errors([0.7, 0.7], reference=[[0.4, 0.4]])  # the mean gain is negative: counted from 0
    expected = 0.5 * ((1 - 1 / (1 + math.exp(BETA * 0.3))) + (1 - 1 / (1 + math.exp(-BETA * 0.3))))
    assert kto.loss(worse, BETA).item() == pytest.approx(expected)


def test_kto_takes_the_same_off_the_gains_of_winners_and_losers_and_asks_nothing_of_it():
    """Gains of 0.3 and 0.1: the mean is 0.2, so the winner is 0.1 above and the loser 0.1 below it."""
    kto = KTO(TIMES, **ERROR, winner_weight=1.0, loser_weight=3.0)
    at = errors([0.1, 0.3], reference=[[0.4, 0.4]])
    each = 1 - 1 / (1 + math.exp(-BETA * 0.1))
    loss = kto.loss(at, BETA)
    assert loss.item() == pytest.approx((1 + 3) / 2 * each)
    loss.backward()
    slope = BETA * each * (1 - each) / 2  # none of it by way of the mean
    assert at.student.grad.tolist() == [[pytest.approx(slope), pytest.approx(-3 * slope)]]


@pytest.mark.parametrize("wrong", [{"winner_weight": -1.0}, {"loser_weight": 0.0}])
def test_weights_and_shapes_that_are_not_positive_are_refused(wrong):
    with pytest.raises(ValueError, match=r"loss\.winner_weight and loss\.loser_weight must be positive"):
        KTO(TIMES, **ERROR, **{"winner_weight": 1.0, "loser_weight": 1.0} | wrong)
    mapo = {"winner_weight": "scale", "loser_weight": "shape"}[next(iter(wrong))]
    with pytest.raises(ValueError, match=r"loss\.scale and loss\.shape must be positive"):
        MaPO(TIMES, space="own", beta=0.1, **{"scale": 1.0, "shape": 1.0} | {mapo: -1.0})


def test_notes_tell_winners_from_losers_and_count_a_tie_half():
    at = errors([0.1, 0.5], [0.6, 0.2], [0.3, 0.3], reference=[[0.3, 0.4], [0.5, 0.5], [0.3, 0.3]])
    found = notes_of(at)
    assert found["winner_error"].tolist() == [0.1, 0.6, 0.3] and found["loser_error"].tolist() == [
        0.5,
        0.2,
        0.3,
    ]
    assert found["winner_change"].tolist() == pytest.approx([-0.2, 0.1, 0.0])
    assert found["loser_change"].tolist() == pytest.approx([0.1, -0.3, 0.0])
    assert found["margin"].tolist() == pytest.approx([0.3, -0.4, 0.0])
    assert found["accuracy"].tolist() == [1.0, 0.0, 0.5]
    assert not any(note.requires_grad for note in found.values())


def test_a_reference_learns_nothing_though_it_could():
    """With an adapter it is the student's own network, whose weights are not frozen."""
    student, reference = denoiser(0.3), denoiser(0.7)
    bound(methods()["dpo"], student, reference)(batch(), rng()).total.mean().backward()
    assert student.backbone.weight.grad != 0 and reference.backbone.weight.grad is None


def test_psi_of_mapo_is_one_at_zero_and_falls_smoothly():
    mapo = methods()["mapo"]
    z = torch.tensor([0.0, 1e-5, 1e-4, 2e-4 - 1e-9, 2e-4 + 1e-9, 1e-2, 1.0, 5.0], dtype=torch.float64)
    psi = mapo.psi(z)
    assert psi[0] == 1 and (psi.diff() < 0).all()
    exact = torch.where(z > 0, 0.5 * z / torch.expm1(0.5 * z), 1.0)
    assert torch.allclose(psi, exact, rtol=0.0, atol=1e-9)


def test_mapo_of_equal_errors_is_the_error_and_log_2_and_prefers_a_smaller_one():
    mapo = methods()["mapo"]
    equal = mapo.loss(errors([0.4, 0.4]), 0.1)
    assert equal.item() == pytest.approx(0.4 + 0.1 * math.log(2))
    assert mapo.loss(errors([0.4, 0.5]), 0.1) < equal < mapo.loss(errors([0.4, 0.3]), 0.1)


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "kto"])
def test_at_the_start_the_student_is_the_reference_and_the_loss_is_known(name):
    losses = bound(methods()[name])(batch(), rng())
    expected = {"dpo": math.log(2), "ipo": (0.5 / BETA) ** 2, "hinge": 1.0, "kto": 0.5}[name]
    assert losses.total.tolist() == pytest.approx([expected] * 4, abs=1e-7)
    assert losses.notes["margin"].abs().max() == 0
    assert losses.notes["accuracy"].tolist() == [0.5] * 4, "a tie counts half"
    assert losses.notes["winner_change"].abs().max() == 0


def test_two_equal_images_give_log_2_and_no_gradient_wherever_the_student_is():
    """Noise or times that are not shared within a pair would show here."""
    student = denoiser(0.9)
    loss = bound(methods()["dpo"], student)(batch(same=True), rng()).total
    assert loss.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    loss.mean().backward()
    assert student.backbone.weight.grad.abs() < 1e-6


def test_dpo_goes_the_way_of_the_winners_against_that_of_the_losers():
    """At the start: beta / 4 (grad e_w - grad e_l)."""
    grads = {}
    for name in ("dpo", "sft_winners"):
        for swap in (False, True):
            student = denoiser()
            both = batch()
            both = Batch(both.x0.flip(1)) if swap else both
            bound(methods()[name], student)(both, rng()).total.mean().backward()
            grads[name, swap] = student.backbone.weight.grad.item()
    expected = BETA / 4 * (grads["sft_winners", False] - grads["sft_winners", True])
    assert grads["dpo", False] == pytest.approx(expected, rel=1e-4)
    assert grads["dpo", True] == pytest.approx(-expected, rel=1e-4)


@pytest.mark.parametrize("prediction", [Velocity(), Eps(), X0()])
def test_errors_of_eps_x0_and_velocity_differ_by_the_factors_of_time(prediction):
    student = denoiser(0.3, prediction)
    t, eps = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.randn(4, 3, 4, 4)
    found = {}
    for space in ("velocity", "eps", "x0"):
        method = DPO(TIMES, space=space, beta=BETA, numbers=None)
        found[space] = bound(method, student, Frozen(student)).errors_at(batch(), eps, t).student
    assert torch.allclose(found["eps"], (1 - t[:, None]) ** 2 * found["velocity"], rtol=1e-4)
    assert torch.allclose(found["x0"], t[:, None] ** 2 * found["velocity"], rtol=1e-4)


def test_the_own_space_is_that_of_the_network():
    t, eps = torch.full((4,), 0.3), torch.randn(4, 3, 4, 4)
    for prediction, space in ((Velocity(), "velocity"), (Eps(), "eps"), (X0(), "x0")):
        student = denoiser(0.3, prediction)
        own, named = (
            bound(DPO(TIMES, space=s, beta=1.0, numbers=None), student).errors_at(batch(), eps, t).student
            for s in ("own", space)
        )
        assert torch.equal(own, named)


def test_the_error_is_the_mean_square_of_the_velocity_of_both_images_with_one_noise():
    both, t, eps = batch(), torch.full((4,), 0.25), torch.randn(4, 3, 4, 4)
    found = bound(methods()["dpo"], denoiser(0.7)).errors_at(both, eps, t).student
    for side in (0, 1):
        x0 = both.x0[:, side]
        error = 0.7 * (0.75 * x0 + 0.25 * eps) - (eps - x0)
        assert torch.allclose(found[:, side], error.square().flatten(1).mean(1), rtol=1e-5)


def test_beta_is_converted_by_the_size_of_the_latents():
    small, large = torch.zeros(1, 2, 4, 8, 8), torch.zeros(1, 2, 4, 16, 16)
    dpo = DPO(TIMES, space="own", beta=5000.0, numbers=16384)
    assert dpo.beta_of(torch.zeros(1, 2, 4, 64, 64)) == 5000
    assert dpo.beta_of(large) == pytest.approx(4 * dpo.beta_of(small)), "equal per summed error"
    assert DPO(TIMES, space="own", beta=5000.0, numbers=None).beta_of(small) == 5000


def test_only_the_student_learns():
    student, reference = denoiser(0.9), denoiser(0.5)
    method = bound(methods()["dpo"], student, Frozen(reference))
    method(batch(), rng()).total.mean().backward()
    assert student.backbone.weight.grad.abs() > 0 and reference.backbone.weight.grad is None
    assert list(method.parameters()) == [], "the reference is no part of the objective"


def test_a_row_draws_the_same_whatever_micro_batch_it_is_in():
    method, both = bound(methods()["dpo"], denoiser(0.9)), batch()
    whole = method(both, rng()).total
    part = method(Batch(both.x0[2:]), rng()[2:]).total
    assert torch.allclose(whole[2:], part, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="loss=dpo compares the student with a frozen copy"):
        methods()["dpo"].bind(denoiser(), Roles())
    methods()["mapo"].bind(denoiser(), Roles())
    with pytest.raises(ValueError, match=r"latents \(B, 2, C, H, W\)"):
        bound(methods()["dpo"])(Batch(torch.zeros(4, 3, 4, 4)), rng())
    for wrong in ({"space": "noise"}, {"beta": 0.0}, {"numbers": 0}):
        with pytest.raises(ValueError, match=rf"loss\.{next(iter(wrong))}"):
            DPO(TIMES, **(ERROR | wrong))


def test_times_that_would_have_to_learn_from_the_loss_are_refused():
    with pytest.raises(ValueError, match="timestep=loss_aware"):
        SFTWinners(LossAware(), space="own")
