"""Densities, shifts and the even spread of the training times."""

import math

import pytest
import torch

from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import LogitNormal, Uniform, shift_time

SAMPLERS = [
    Uniform(),
    Uniform(0.2, 0.7),
    LogitNormal(),
    LogitNormal(-0.6, 1.2),
    LogitNormal(0.5, 0.8, shift=3.0),
    LogitNormal(0.0, 1.0, shift=2.0, uniform_share=0.1),
    LogitNormal(0.0, 1.0, uniform_share=1.0),
]
STRATIFIED = [
    Uniform(0.2, 0.7, stratified=True),
    LogitNormal(0.5, 0.8, stratified=True),
    LogitNormal(0.0, 1.0, shift=2.0, uniform_share=0.1, stratified=True),
]
index = {"ids": lambda value: str(vars(value)) if hasattr(value, "quantile") else None}


def rng(rows: int, step: int = 0) -> RowRng:
    return RowRng(0, step, torch.arange(rows), rows)


@pytest.mark.parametrize("sampler", SAMPLERS, **index)
def test_density_integrates_to_one_and_its_integral_is_the_share_of_draws(sampler):
    t = torch.linspace(0, 1, 20001, dtype=torch.float64)
    middle = (t[1:] + t[:-1]) / 2
    cdf = sampler.log_density(middle).exp().cumsum(0) / 20000
    assert cdf[-1] == pytest.approx(1, abs=1e-3)
    draws = sampler(rng(20000)).double().sort().values
    expected = cdf[(draws * 20000).long().clamp(max=19999)]
    level = (torch.arange(20000) + 0.5) / 20000
    assert (expected - level).abs().max() < 1.95 / 20000**0.5  # Kolmogorov-Smirnov at 0.1 %


PURE = [sampler for sampler in SAMPLERS if getattr(sampler, "uniform_share", 0.0) in (0.0, 1.0)]


@pytest.mark.parametrize("sampler", PURE, **index)
def test_the_slope_of_the_quantile_is_one_over_the_density(sampler):
    level = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    t = sampler.quantile(level)
    (slope,) = torch.autograd.grad(t.sum(), level)
    torch.testing.assert_close(sampler.log_density(t), -slope.log(), rtol=1e-8, atol=1e-8)


def test_logit_normal_density_has_its_published_value():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert float(LogitNormal().log_density(half).exp()) == pytest.approx(1.5958, abs=1e-4)


def test_density_is_zero_outside_the_range():
    t = torch.tensor([-0.1, 0.1, 0.9, 1.1])
    assert Uniform(0.2, 0.7).log_density(t).exp().tolist() == [0, 0, 0, 0]
    assert LogitNormal(uniform_share=0.1).log_density(t).exp()[[0, 3]].tolist() == [0, 0]


def test_density_at_the_ends_is_that_of_the_uniform_share():
    ends = torch.tensor([0.0, 1.0])
    assert LogitNormal().log_density(ends).exp().tolist() == [0, 0]
    torch.testing.assert_close(LogitNormal(uniform_share=0.1).log_density(ends).exp(), torch.full((2,), 0.1))


def test_positive_mean_means_more_noise():
    assert LogitNormal(1.0, 1.0)(rng(1000)).mean() > 0.6
    assert LogitNormal(-1.0, 1.0)(rng(1000)).mean() < 0.4


def test_shift_adds_its_logarithm_to_the_logit():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(torch.logit(shift_time(t, 3.0)), torch.logit(t) + math.log(3.0))
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 2.0), shift_time(t, 6.0))
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 1 / 3), t)
    assert shift_time(0.0, 3.0) == 0 and shift_time(1.0, 3.0) == 1
    assert shift_time(0.5, 3.0) == pytest.approx(0.75)


def test_shifted_logit_normal_is_the_logit_normal_of_the_shifted_mean():
    shifted, moved = LogitNormal(0.3, 0.9, shift=2.5), LogitNormal(0.3 + math.log(2.5), 0.9)
    assert torch.equal(shifted(rng(100)), moved(rng(100)))
    torch.testing.assert_close(shifted(rng(100)), shift_time(LogitNormal(0.3, 0.9)(rng(100)), 2.5))


@pytest.mark.parametrize("sampler", STRATIFIED, **index)
def test_stratified_times_of_a_global_batch_leave_no_gap(sampler):
    rows = 256
    t = sampler(rng(rows)).double()
    grid = torch.linspace(0, 1, 200001, dtype=torch.float64)
    cdf = sampler.log_density((grid[1:] + grid[:-1]) / 2).exp().cumsum(0) / 200000
    level = cdf[(t.sort().values * 200000).long().clamp(max=199999)]
    parts = 1 if getattr(sampler, "uniform_share", 0) == 0 else 2
    gap = torch.maximum(
        (level - torch.arange(rows) / rows).abs(), (level - torch.arange(1, rows + 1) / rows).abs()
    )
    assert gap.max() <= (parts + 0.01) / rows


def test_stratified_times_do_not_depend_on_how_the_batch_is_split_and_change_with_the_step():
    sampler = LogitNormal(stratified=True)
    whole = rng(64)
    parts = torch.cat([sampler(whole[:10]), sampler(whole[10:])])
    assert torch.equal(sampler(whole), parts)
    assert not torch.equal(sampler(whole).argsort(), sampler(rng(64, step=1)).argsort())


def test_a_stratified_time_is_distributed_like_a_plain_one_in_every_row():
    sampler = Uniform(stratified=True)
    t = torch.stack([sampler(rng(4, step)) for step in range(1000)])
    assert (t.mean(0) - 0.5).abs().max() < 5 / (12 * 1000) ** 0.5


@pytest.mark.parametrize("sampler", [*SAMPLERS, *STRATIFIED], **index)
def test_times_are_float32_inside_the_range(sampler):
    t = sampler(rng(4096))
    assert t.dtype == torch.float32 and t.shape == (4096,)
    assert sampler.low <= t.min() and t.max() <= sampler.high


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0.7, 0.2),
        lambda: Uniform(0.0, 1.1),
        lambda: LogitNormal(std=0.0),
        lambda: LogitNormal(shift=-1.0),
        lambda: LogitNormal(uniform_share=1.5),
    ],
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match="timestep"):
        make()
