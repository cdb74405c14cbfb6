import pytest
import torch

from t2ilab.core.loss_aware import LossAware
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


def test_as_a_single_distribution_it_is_the_last_of_all_phases():
    plain, last = Uniform(low=0.2), LogitNormal(shift=3.0, stratified=True)
    phased, t = Phased([0, 5, 9], [plain, plain, last]), torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64)
    assert torch.equal(phased.quantile(t), last.quantile(t)) and not torch.equal(
        phased.quantile(t), plain.quantile(t)
    )
    assert torch.equal(phased.log_density(t), last.log_density(t))
    assert phased.stratified and not plain.stratified


def test_a_distribution_that_learns_does_so_in_its_phase_and_keeps_what_it_has_learnt():
    phased = Phased([0, 5], [LossAware(bins=2), LossAware(bins=2)])
    t, loss = torch.tensor([0.2, 0.7]), torch.tensor([1.0, 3.0])
    for step in range(3):
        phased.begin(step)
        phased.observe(loss, t)
    first, second = phased.samplers
    assert first.shares()[1] > 0.6 and torch.equal(
        second.shares(), torch.full((2,), 0.5, dtype=torch.float64)
    )
    assert torch.equal(phased.weigh(loss, t), first.weigh(loss, t))
    phased.begin(5)
    assert torch.equal(phased.weigh(loss, t), loss)
    again = Phased([0, 5], [LossAware(bins=2), LossAware(bins=2)])
    again.load_state_dict(phased.state_dict())
    assert torch.equal(again.samplers[0].shares(), first.shares())
    assert len(phased.state_dict()) == 2 * len(first.state_dict()), "everything once"


def test_before_any_step_has_begun_it_is_the_first_one():
    phased = Phased([0, 5], [LossAware(bins=2), LossAware(bins=2)])
    phased.observe(torch.tensor([1.0]), torch.tensor([0.2]))
    assert [float(sampler.pending.sum()) for sampler in phased.samplers] == [2.0, 0.0]


def test_the_range_holds_the_times_of_all_phases():
    assert (PHASED.low, PHASED.high) == (0.0, 1.0)
    narrow = Phased([0, 5], [Uniform(low=0.3, high=0.5), LATE])
    assert (narrow.low, narrow.high) == (0.1, 0.9)


def test_as_one_distribution_it_is_the_last_one():
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    assert torch.equal(PHASED.log_density(t), LATE.log_density(t))
    assert torch.equal(PHASED.quantile(t), LATE.quantile(t))
