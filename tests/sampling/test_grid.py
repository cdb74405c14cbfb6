"""Time grids."""

import pytest
import torch

from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear, Trig, VPLinear
from t2ilab.sampling.grid import EDMGrid, Grid, LastStepGrid, LogSNRGrid

SCALED = Discrete(0.00085, 0.012, power=2.0)


@pytest.mark.parametrize("path", [Linear(), Trig(), VPLinear(), VE(), SCALED])
@pytest.mark.parametrize("grid", [Grid(10), Grid(10, shift=3.0), LastStepGrid(10), LogSNRGrid(10)])
def test_times_fall_from_noise_to_data(grid, path):
    times = grid.times(path)
    assert times.shape == (11,) and times.dtype == torch.float64
    assert (times.diff() < 0).all()
    assert 0 <= times[-1] < times[0] <= 1


def test_plain_grid_is_even_and_the_shift_keeps_its_ends():
    torch.testing.assert_close(Grid(4).times(Linear()), torch.tensor([1, 0.75, 0.5, 0.25, 0]).double())
    shifted = Grid(4, shift=3.0).times(Linear())
    torch.testing.assert_close(shifted, torch.tensor([1, 0.9, 0.75, 0.5, 0]).double())


def test_a_power_puts_more_steps_at_both_ends():
    even = torch.linspace(1, 0, 9, dtype=torch.float64)[1:-1]
    times = Grid(8, shift=3.0, power=2.0).times(Linear())[1:-1]
    torch.testing.assert_close(torch.logit(times), 2 * torch.logit(even) + torch.tensor(3.0).double().log())


def test_last_step_grid_is_that_of_sit():
    times = LastStepGrid(250, last=0.04).times(Linear())
    assert (times[0], times[-2], times[-1]) == (1.0, 0.04, 0.0)
    torch.testing.assert_close(times[:-1], torch.linspace(1, 0.04, 250, dtype=torch.float64))


def test_last_step_grid_shifts_its_even_times_and_begins_where_it_is_told():
    times = LastStepGrid(4, last=0.25, shift=3.0, start=0.75).times(Linear())
    torch.testing.assert_close(times[[0, 3, 4]], torch.tensor([0.9, 0.5, 0.0]).double())
    odds = times[:-1] / (1 - times[:-1])
    even = torch.linspace(0.75, 0.25, 4, dtype=torch.float64)
    torch.testing.assert_close(odds, 3.0 * even / (1 - even))


def test_log_snr_grid_is_even_in_log_snr():
    for path in (Linear(), VPLinear()):
        steps = path.log_snr(LogSNRGrid(16).times(path)).diff()
        torch.testing.assert_close(steps, steps[:1].expand(16))


@pytest.mark.parametrize("path", [Linear(), Trig(), VE()])
def test_edm_grid_has_the_noise_levels_of_the_paper_on_every_path(path):
    times = EDMGrid(18).times(path)
    ramp = torch.arange(18, dtype=torch.float64) / 17
    expected = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    level = (path.sigma(times) / path.alpha(times))[:-1]
    torch.testing.assert_close(level, expected, rtol=1e-9, atol=0)
    assert times[-1] == 0 and len(times) == 19


def test_edm_grid_beyond_the_noise_of_the_path_is_refused():
    with pytest.raises(ValueError, match=r"sampler\.grid\.sigma_max.*ends at 80"):
        EDMGrid(10, sigma_max=100.0).times(VE(80.0))
    with pytest.raises(ValueError, match=r"sampler\.grid\.sigma_max.*path=Discrete.*ends at 14\.61"):
        EDMGrid(10, sigma_max=15.0).times(SCALED)
    assert EDMGrid(10, sigma_max=14.6).times(SCALED)[0] < 1


def test_shifted_grid_equals_that_of_the_flow_matching_scheduler_of_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, 11)[:-1].tolist())
    times = Grid(10, shift=3.0).times(Linear()).float()
    torch.testing.assert_close(scheduler.sigmas, times, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid(0),
        lambda: Grid(4, shift=0.0),
        lambda: Grid(4, power=0.0),
        lambda: Grid(4, start=0.2, end=0.4),
        lambda: LastStepGrid(1),
        lambda: LastStepGrid(5, shift=0.0),
        lambda: LastStepGrid(5, last=0.5, start=0.5),
        lambda: LogSNRGrid(4, start=1.0),
        lambda: EDMGrid(4, sigma_min=90.0),
    ],
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match=r"sampler\.grid"):
        make()
