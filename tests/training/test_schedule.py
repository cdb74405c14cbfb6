import math

import pytest
import torch

from t2ilab.training.schedule import Constant, Cosine, InverseSqrt, WarmupStableDecay

TOTAL = 100


@pytest.mark.parametrize(
    "schedule", [Constant(9), WarmupStableDecay(9, decay=0.4), Cosine(9), InverseSqrt(9, reference=20)]
)
def test_warm_up_rises_by_equal_parts_and_the_first_step_is_not_lost(schedule):
    rise = [schedule(step, TOTAL) for step in range(9)]
    assert rise == pytest.approx([(step + 1) / 10 for step in range(9)])
    assert schedule(9, TOTAL) == 1.0


def test_constant_stays_at_one():
    assert {Constant(0)(step, TOTAL) for step in range(TOTAL)} == {1.0}


def test_wsd_falls_on_a_line_over_the_last_share_and_ends_one_step_above_its_final_value():
    schedule = WarmupStableDecay(warmup=0, decay=0.4, final=0.1)
    assert {schedule(step, TOTAL) for step in range(61)} == {1.0}
    for step in range(60, 100):
        assert schedule(step, TOTAL) == pytest.approx(0.1 + 0.9 * (100 - step) / 40)
    assert schedule(99, TOTAL) == pytest.approx(0.1 + 0.9 / 40)
    assert schedule(TOTAL, TOTAL) == schedule(2 * TOTAL, TOTAL) == pytest.approx(0.1)


def test_wsd_without_decay_is_constant_until_the_end():
    assert {WarmupStableDecay(0, decay=0.0)(step, TOTAL) for step in range(TOTAL)} == {1.0}


def test_wsd_can_decay_all_the_way():
    assert WarmupStableDecay(0, decay=1.0)(25, TOTAL) == pytest.approx(0.75)


def test_cosine_is_half_a_cosine_after_the_warm_up():
    schedule = Cosine(warmup=20, final=0.2)
    for step in range(20, 101):
        expected = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (step - 20) / 80))
        assert schedule(step, TOTAL) == pytest.approx(expected)
    assert schedule(60, TOTAL) == pytest.approx(0.6)
    assert schedule(2 * TOTAL, TOTAL) == pytest.approx(0.2)


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    other = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL, eta_min=0.2)
    for step in range(TOTAL):
        assert Cosine(0, final=0.2)(step, TOTAL) == pytest.approx(other.get_last_lr()[0])
        optimizer.step()
        other.step()


def test_inverse_sqrt_is_one_up_to_its_reference_and_halves_when_the_steps_become_four_times_as_many():
    schedule = InverseSqrt(0, reference=25)
    assert {schedule(step, TOTAL) for step in range(26)} == {1.0}
    assert schedule(100, TOTAL) == 0.5
    assert schedule(2500, TOTAL) == schedule(2500, 10 * TOTAL) == 0.1
    for step in range(26, 200):
        assert schedule(step, TOTAL) == pytest.approx((25 / step) ** 0.5)


def test_a_warm_up_longer_than_the_reference_multiplies_the_fall():
    schedule = InverseSqrt(99, reference=25)
    assert schedule(49, TOTAL) == pytest.approx(0.5 * (25 / 49) ** 0.5)
    assert schedule(99, TOTAL) == pytest.approx((25 / 99) ** 0.5)


LAST = TOTAL - 1  # the last step that is taken


@pytest.mark.parametrize(
    ("schedule", "first", "last", "end"),
    [
        (Constant(0), 1.0, 1.0, 1.0),
        (WarmupStableDecay(0, decay=0.4), 1.0, 1 / 40, 0.0),
        (Cosine(0), 1.0, 0.5 * (1 - math.cos(math.pi / 100)), 0.0),
        (InverseSqrt(0, reference=25), 1.0, (25 / 99) ** 0.5, 0.5),
    ],
)
def test_the_values_at_both_ends(schedule, first, last, end):
    found = [schedule(step, TOTAL) for step in (0, LAST, TOTAL)]
    assert found == pytest.approx([first, last, end], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "schedule.warmup"),
        (lambda: WarmupStableDecay(-1), "schedule.warmup"),
        (lambda: WarmupStableDecay(decay=1.1), "schedule.decay"),
        (lambda: WarmupStableDecay(final=-0.1), "schedule.final"),
        (lambda: Cosine(final=2.0), "schedule.final"),
        (lambda: Cosine(-1), "schedule.warmup"),
        (lambda: InverseSqrt(-1), "schedule.warmup"),
        (lambda: InverseSqrt(reference=0), "schedule.reference"),
    ],
)
def test_impossible_options_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
