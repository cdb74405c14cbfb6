import pytest
import torch

from t2ilab.core.phased import Phased, phase_at
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import LogitNormal, Uniform

EARLY, LATE = LogitNormal(shift=2.0, stratified=True), Uniform(low=0.1, high=0.9)
PHASED = Phased([0, 5], [EARLY, LATE])


def rng(step):
    return RowRng(0, step, torch.arange(16), 16)


@pytest.mark.parametrize(("step", "place"), [(0, 0), (4, 0), (5, 1), (6, 1), (99, 2), (10**9, 2)])
def test_a_phase_begins_with_its_first_step(step, place):
    assert phase_at([0, 5, 99], step) == place


@pytest.mark.parametrize("step", [0, 4, 5, 40])
def test_times_are_those_of_the_distribution_of_the_phase(step):
    wanted, other = (EARLY, LATE) if step < 5 else (LATE, EARLY)
    assert torch.equal(PHASED(rng(step)), wanted(rng(step)))
    assert not torch.equal(PHASED(rng(step)), other(rng(step)))


def test_the_range_holds_the_times_of_all_phases():
    assert (PHASED.low, PHASED.high) == (0.0, 1.0)
    narrow = Phased([0, 5], [Uniform(low=0.3, high=0.5), LATE])
    assert (narrow.low, narrow.high) == (0.1, 0.9)


def test_as_one_distribution_it_is_the_last_one():
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    assert torch.equal(PHASED.log_density(t), LATE.log_density(t))
    assert torch.equal(PHASED.quantile(t), LATE.quantile(t))
