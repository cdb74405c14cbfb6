"""Densities and the even spread of the training times."""

import dataclasses
import math

import pytest
import torch

from t2ilab.core.beta import Beta
from t2ilab.core.path import VE, Linear, Trig
from t2ilab.core.rng import RowRng
from t2ilab.core.shift import shift_time
from t2ilab.core.timestep import CosMap, LogitNormal, LogNormal, Mode, Uniform

LARGEST_SCALE = 2 / (math.pi - 2)
PURE = [  # one distribution, shifted and cut or not
    Uniform(),
    Uniform(0.2, 0.7),
    Uniform(shift=3.0),
    LogitNormal(),
    LogitNormal(-0.6, 1.2),
    LogitNormal(0.5, 0.8, shift=3.0),
    LogitNormal(0.0, 1.0, low=1e-3),
    LogitNormal(0.5, 2.0, shift=0.5, low=0.1, high=0.8),
    LogitNormal(0.0, 1.0, uniform_share=1.0, low=0.3),
    LogNormal(-0.5, 1.2),
    LogNormal(0.5, 2.0, sigma_max=5.0),
    LogNormal(-0.5, 1.2, sigma_max=80.0, shift=2.0, high=0.9),
    Mode(1.29),
    Mode(-0.8),
    Mode(1.7, shift=3.0, low=0.2),
    CosMap(),
    CosMap(shift=4.0, low=0.05, high=0.95),
    Beta(),
    Beta(2.0, 5.0, shift=2.0, low=0.1),
    Beta(0.8, 0.7, low=0.001, high=0.999),
]
MIXED = [
    LogitNormal(0.0, 1.0, shift=2.0, uniform_share=0.1),
    LogitNormal(0.0, 1.0, low=0.1, high=0.9, uniform_share=0.3),
    LogNormal(0.0, 1.0, sigma_max=10.0, uniform_share=0.2),
    Mode(1.29, uniform_share=0.1, low=0.05),
    CosMap(uniform_share=0.5),
    Beta(3.0, 2.0, uniform_share=0.1),
]
SAMPLERS = [*PURE, *MIXED]
STRATIFIED = [
    dataclasses.replace(sampler, stratified=True) for sampler in SAMPLERS if sampler.uniform_share < 1
]
index = {"ids": lambda value: repr(value) if hasattr(value, "quantile") else None}


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


@pytest.mark.parametrize("sampler", PURE, **index)
def test_the_slope_of_the_quantile_is_one_over_the_density(sampler):
    level = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    t = sampler.quantile(level)
    (slope,) = torch.autograd.grad(t.sum(), level)
    torch.testing.assert_close(sampler.log_density(t), -slope.log(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", PURE, **index)
def test_the_integral_of_the_density_is_the_inverse_of_the_quantile(sampler):
    level = torch.linspace(0, 0.999, 12, dtype=torch.float64)
    t = sampler.quantile(level)
    assert (t.diff() > 0).all()
    for i in range(len(t) - 1):
        between = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:] - 1 / 8000
        inner = t[i] + (t[i + 1] - t[i]) * between**2  # squared: some densities are infinite at 0
        integral = (sampler.log_density(inner).exp() * 2 * between).mean() * (t[i + 1] - t[i])
        assert float(integral) == pytest.approx(float(level[i + 1] - level[i]), rel=2e-3)


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


def test_shifted_logit_normal_is_the_logit_normal_of_the_shifted_mean():
    shifted, moved = LogitNormal(0.3, 0.9, shift=2.5), LogitNormal(0.3 + math.log(2.5), 0.9)
    torch.testing.assert_close(shifted(rng(100)), moved(rng(100)))
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(shifted.log_density(t), moved.log_density(t))
    torch.testing.assert_close(shifted(rng(100)), shift_time(LogitNormal(0.3, 0.9)(rng(100)), 2.5))


@pytest.mark.parametrize(
    "distribution", [LogitNormal(0.3, 0.9), LogNormal(0.0, sigma_max=9.0), Mode(1.0), CosMap(), Beta()]
)
@pytest.mark.parametrize("a", [0.4, 3.0])
def test_a_shift_moves_the_times_of_every_distribution(distribution, a):
    shifted = dataclasses.replace(distribution, shift=a)
    torch.testing.assert_close(shifted(rng(100)), shift_time(distribution(rng(100)), a))


@pytest.mark.parametrize("distribution", [LogitNormal(0.3, 0.9, shift=2.0), Mode(1.0), CosMap(), Beta()])
def test_a_range_is_what_rejection_leaves(distribution):
    cut = dataclasses.replace(distribution, low=0.2, high=0.7)
    draws = distribution(rng(20000)).double()
    kept = draws[(draws >= 0.2) & (draws <= 0.7)].sort().values
    quantiles = cut.quantile((torch.arange(len(kept), dtype=torch.float64) + 0.5) / len(kept))
    assert (kept - quantiles).abs().max() < 0.02
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    share = len(kept) / len(draws)
    ratio = (cut.log_density(t) - distribution.log_density(t)).exp()
    torch.testing.assert_close(ratio, torch.tensor([0, 1 / share, 1 / share, 0]).double(), rtol=0.02, atol=0)


def test_a_uniform_share_is_drawn_uniformly_and_the_rest_from_the_distribution():
    distribution = CosMap(low=0.1)
    mixed = dataclasses.replace(distribution, uniform_share=0.25)
    t = torch.linspace(0.1, 1.0, 50, dtype=torch.float64)
    expected = 0.75 * distribution.log_density(t).exp() + 0.25 / 0.9
    torch.testing.assert_close(mixed.log_density(t).exp(), expected)
    level = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    torch.testing.assert_close(mixed.quantile(level[:2]), 0.1 + 0.9 * level[:2] / 0.25)
    torch.testing.assert_close(mixed.quantile(level[2:]), distribution.quantile((level[2:] - 0.25) / 0.75))


def test_a_level_is_the_middle_of_its_cell_so_no_time_is_clean():
    class Least(RowRng):
        def uniform(self, purpose, *shape, dtype=torch.float32):
            return torch.zeros(len(self), *shape, dtype=dtype)

    assert Uniform()(Least(0, 0, torch.arange(2), 2)).tolist() == [2.0**-33] * 2
    assert (LogitNormal()(Least(0, 0, torch.arange(2), 2)) > 0).all()


def test_mode_has_its_published_values():
    """t of u = 0, 0.1 .. 0.5 at s = 1.29, symmetric about one half."""
    known = torch.tensor([1.0, 0.8026, 0.6652, 0.5789, 0.5297, 0.5], dtype=torch.float64)
    u = torch.linspace(0, 0.5, 6, dtype=torch.float64)
    torch.testing.assert_close(Mode(1.29).quantile(1 - u), known, rtol=0, atol=5e-5)
    torch.testing.assert_close(Mode(1.29).quantile(u), 1 - known, rtol=0, atol=5e-5)
    torch.testing.assert_close(Mode(0.0).quantile(u), u)


def test_mode_and_logit_normal_are_what_diffusers_draws():
    from diffusers.training_utils import compute_density_for_timestep_sampling

    for scheme, distribution in (("mode", Mode(1.29)), ("logit_normal", LogitNormal(0.2, 0.7))):
        theirs = compute_density_for_timestep_sampling(
            scheme,
            20000,
            logit_mean=0.2,
            logit_std=0.7,
            mode_scale=1.29,
            generator=torch.Generator().manual_seed(0),
        )
        level = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        assert (theirs.double().sort().values - distribution.quantile(level)).abs().max() < 0.03


@pytest.mark.parametrize("scale", [-1.0, LARGEST_SCALE])
def test_mode_is_monotone_up_to_the_ends_of_its_scale_and_not_beyond(scale):
    level = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (Mode(scale).quantile(level).diff() > 0).all()
    beyond = 1.01 * scale
    t = level + beyond * (level - torch.sin(math.pi / 2 * level) ** 2)
    assert (t.diff() < 0).any()
    with pytest.raises(ValueError, match=r"timestep\.scale must lie in \[-1, .*1\.7519"):
        Mode(beyond)


def test_cosmap_has_its_published_values_and_the_noise_levels_of_the_trig_path():
    level = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    expected = torch.tensor([1 - 1 / 2**0.5, 0.5, 1 / 2**0.5], dtype=torch.float64)
    torch.testing.assert_close(CosMap().quantile(level), expected)
    torch.testing.assert_close(CosMap().quantile(level), 1 - 1 / (torch.tan(math.pi * level / 2) + 1))
    torch.testing.assert_close(Linear().log_snr(CosMap().quantile(level)), Trig().log_snr(level))


def test_log_normal_is_logit_normal_on_the_linear_path():
    ours, same = LogNormal(-0.6, 1.2), LogitNormal(-0.6, 1.2)
    assert torch.equal(ours(rng(1000)), same(rng(1000)))
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(ours.log_density(t), same.log_density(t))


@pytest.mark.parametrize(("path", "sigma_max"), [(Linear(), None), (VE(), 80.0), (VE(5.0), 5.0)])
def test_log_normal_draws_the_noise_levels_of_edm_on_both_clocks(path, sigma_max):
    """ln(sigma / alpha) is N(mean, std^2), without what lies beyond the end of the path."""
    mean, std = -0.5, 1.2
    level = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    found = -0.5 * path.log_snr(LogNormal(mean, std, sigma_max=sigma_max).quantile(level))
    normal = torch.distributions.Normal(mean, std)
    end = 1.0 if sigma_max is None else normal.cdf(torch.tensor(sigma_max).double().log())
    torch.testing.assert_close(normal.cdf(found), level * end)


@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 1.0), (0.5, 0.5), (0.1, 5.0), (2.0, 5.0), (100.0, 100.0)])
def test_beta_equals_that_of_scipy(alpha, beta):
    from scipy import stats

    level = torch.tensor([1e-6, 1e-3, 0.1, 0.3, 0.5, 0.9, 0.999], dtype=torch.float64)
    t = Beta(alpha, beta).quantile(level)
    theirs = torch.from_numpy(stats.beta.ppf(level.numpy(), alpha, beta))
    torch.testing.assert_close(t, theirs, rtol=1e-7, atol=1e-9)
    density = torch.from_numpy(stats.beta.logpdf(t.numpy(), alpha, beta))
    torch.testing.assert_close(Beta(alpha, beta).log_density(t), density, rtol=1e-9, atol=1e-9)


def test_the_table_of_beta_ends_where_a_bound_of_the_tail_is_tiny():
    distribution, b = Beta(2.0, 5.0), math.gamma(2) * math.gamma(5) / math.gamma(7)
    edge, area = distribution._table.on(torch.device("cpu"))
    assert math.exp(2 * edge[0]) / (2 * b) == pytest.approx(1e-17, rel=1e-9, abs=0)
    assert math.exp(-5 * edge[-1]) / (5 * b) == pytest.approx(1e-17, rel=1e-9, abs=0)
    assert (area[0], area[-1]) == (0, 1) and (area.diff() >= 0).all()
    for numbers in ((1.5, 1.0), (0.5, 0.5), (0.8, 0.7), (0.1, 5.0), (100.0, 100.0), (3.0, 2.0)):
        assert Beta(*numbers)._table.on(torch.device("cpu"))[1][-1] == 1


def test_beta_of_ones_is_uniform():
    level = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(Beta(1.0, 1.0).quantile(level), level, rtol=0, atol=1e-9)


def test_distributions_can_be_built_where_tensors_have_no_values():
    """The check of a config builds the parts on the meta device."""
    with torch.device("meta"):
        samplers = [dataclasses.replace(sampler) for sampler in SAMPLERS]
    for sampler in samplers:
        assert sampler(rng(4)).device.type == "cpu"


@pytest.mark.parametrize("sampler", STRATIFIED, **index)
def test_stratified_times_of_a_global_batch_leave_no_gap(sampler):
    rows = 256
    t = sampler(rng(rows)).double()
    grid = torch.linspace(0, 1, 200001, dtype=torch.float64)
    cdf = sampler.log_density((grid[1:] + grid[:-1]) / 2).exp().cumsum(0) / 200000
    level = cdf[(t.sort().values * 200000).long().clamp(max=199999)]
    parts = 1 if sampler.uniform_share == 0 else 2
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
        lambda: LogitNormal(low=0.5, high=0.4),
        lambda: LogitNormal(-5.0, 0.1, low=0.9),
        lambda: LogNormal(sigma_max=0.5),
        lambda: LogNormal(std=-1.0),
        lambda: Mode(2.0),
        lambda: Beta(0.0, 1.0),
        lambda: Beta(1.0, 0.01),
    ],
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match="timestep"):
        make()
