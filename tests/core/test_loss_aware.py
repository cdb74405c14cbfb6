"""Times that follow the loss: the density, and what its weights keep."""

import pytest
import torch

from t2ilab.core.loss_aware import LossAware
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.core.timestep import LogitNormal, fixed


def taught(loss_of, *, bins=4, steps=3, rows=400, **options):
    """A sampler that has seen `loss_of(t)` at even times for some steps."""
    times = LossAware(bins, **{"decay": 0.5, "uniform_share": 0.2, **options})
    t = (torch.arange(rows) + 0.5) / rows
    for step in range(steps):
        times.begin(step)
        times.observe(loss_of(t), t)
    times.begin(steps)
    return times


def quarters(t):
    """1, 2, 3, 4 in the four quarters."""
    return (t * 4).floor() + 1


def test_it_is_uniform_until_every_bin_has_been_met():
    times = LossAware(4, uniform_share=0.2)
    times.observe(torch.tensor([9.0, 1.0, 1.0]), torch.tensor([0.1, 0.3, 0.6]))
    times.begin(1)
    assert times.shares().tolist() == [0.25] * 4
    times.observe(torch.tensor([1.0]), torch.tensor([0.9]))
    times.begin(2)
    assert float(times.shares()[0]) > 0.5


def test_shares_are_those_of_the_root_mean_square_loss_mixed_with_the_uniform():
    expected = [0.8 * k / 10 + 0.05 for k in (1, 2, 3, 4)]
    assert taught(quarters).shares().tolist() == pytest.approx(expected)
    assert taught(quarters, steps=1).shares().tolist() == pytest.approx(expected), (
        "the start must not bias it"
    )


def test_the_mean_and_the_correction_of_its_start_grow_to_the_mean_square_and_to_one():
    times = taught(quarters, steps=3)
    assert times.met.tolist() == pytest.approx([1 - 0.5**3] * 4)
    assert times.moment.tolist() == pytest.approx([(1 - 0.5**3) * k**2 for k in (1, 2, 3, 4)])


def test_bins_of_the_same_loss_have_the_same_share_however_often_they_were_met():
    times = taught(torch.ones_like, bins=2, steps=1)
    for step in range(1, 4):
        times.observe(torch.ones(8), torch.full((8,), 0.25))  # of the first bin alone
        times.begin(step + 1)
    assert times.met.tolist() == pytest.approx([1 - 0.5**4, 0.5])
    assert times.shares().tolist() == pytest.approx([0.5, 0.5])


def test_the_running_mean_forgets():
    times = taught(quarters, steps=3)
    t = (torch.arange(400) + 0.5) / 400
    for step in range(3, 30):
        times.begin(step)
        times.observe(torch.ones(400), t)
    times.begin(30)
    assert times.shares().tolist() == pytest.approx([0.25] * 4, abs=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_density_is_the_derivative_of_the_quantiles_and_integrates_to_one(shift):
    times = taught(quarters, shift=shift)
    levels = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    t = times.quantile(levels)
    assert bool((t.diff() > 0).all()) and float(t[0]) >= 0 and float(t[-1]) <= 1
    slopes = (times.quantile(levels + 1e-6) - t) / 1e-6
    inside = (shift_time(t, 1 / shift) * 4 % 1 - 0.5).abs() < 0.499
    torch.testing.assert_close(times.log_density(t)[inside], -slopes[inside].log(), atol=1e-4, rtol=1e-4)
    even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert float(times.log_density(even).exp().mean()) == pytest.approx(1.0, abs=2e-3)
    assert times.log_density(torch.tensor([-0.1, 1.1])).tolist() == [-torch.inf] * 2


def test_the_ends_belong_to_the_last_bins_whatever_the_rounding_of_the_shares():
    times = LossAware(10)
    assert float(times.shares().cumsum(0)[-1]) < 1  # ten tenths
    assert times.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == pytest.approx([0.0, 1.0])
    times.observe(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    assert times.pending[1].tolist() == [1.0, *[0.0] * 8, 1.0]
    assert times.log_density(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_what_it_observes_leaves_no_graph_behind():
    times = LossAware(4)
    times.observe(torch.ones(3, requires_grad=True), torch.tensor([0.1, 0.2, 0.9]))
    assert not times.pending.requires_grad


@pytest.mark.parametrize("stratified", [False, True])
def test_weighted_losses_have_the_mean_of_uniform_times(stratified):
    times = taught(quarters, stratified=stratified)
    n = 40_000
    t = times(RowRng(3, 0, torch.arange(n), n))
    weighted = times.weigh(torch.cos(t) + quarters(t), t)
    expected = float(torch.sin(torch.tensor(1.0))) + 2.5
    assert float(weighted.mean()) == pytest.approx(expected, abs=0.03)
    plain = taught(quarters, importance=False)
    assert torch.equal(plain.weigh(t, t), t)


def test_weighted_losses_have_the_mean_of_shifted_times():
    times, n = taught(quarters, shift=3.0, stratified=True), 40_000
    t = times(RowRng(3, 0, torch.arange(n), n))
    even = shift_time((torch.arange(n) + 0.5) / n, 3.0)
    assert float(times.weigh(torch.cos(t), t).mean()) == pytest.approx(
        float(torch.cos(even).mean()), abs=0.01
    )


def test_weights_make_losses_of_this_shape_less_scattered():
    times, n = taught(quarters, uniform_share=0.01), 40_000
    t = times(RowRng(3, 0, torch.arange(n), n))
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    assert float(times.weigh(quarters(t), t).var()) < 0.1 * float(quarters(uniform).var())


def test_a_step_in_parts_is_taken_in_as_one_step():
    whole, parts = LossAware(4, uniform_share=0.2), LossAware(4, uniform_share=0.2)
    t = torch.rand(64, generator=torch.Generator().manual_seed(1))
    loss = quarters(t)
    whole.begin(0)
    whole.observe(loss, t)
    for rows in torch.arange(64).split(16):
        parts.begin(0)  # every micro-batch asks anew
        before = parts.shares()
        parts.observe(loss[rows], t[rows])
        assert torch.equal(parts.shares(), before), "the density changed within a step"
    for times in (whole, parts):
        times.begin(1)
    torch.testing.assert_close(whole.shares(), parts.shares())


def test_its_memory_is_in_the_state():
    times, fresh = taught(quarters), LossAware(4, 0.5, 0.2)
    times.observe(torch.tensor([5.0]), torch.tensor([0.5]))
    fresh.load_state_dict(times.state_dict())
    for sampler in (times, fresh):
        sampler.begin(9)
    assert torch.equal(times.shares(), fresh.shares())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"bins": 0}, "bins"),
        ({"decay": 1.0}, "decay"),
        ({"uniform_share": 0.0}, "uniform_share"),
        ({"shift": 0.0}, "shift"),
    ],
)
def test_values_out_of_range_are_refused(options, name):
    with pytest.raises(ValueError, match=rf"timestep\.\w*{name}"):
        LossAware(**options)


def test_a_method_that_tells_no_losses_refuses_it():
    with pytest.raises(ValueError, match="timestep=loss_aware learns from the losses"):
        fixed(LossAware())
    assert fixed(times := LogitNormal()) is times
