import math

import numpy as np
import pytest
import torch

from t2ilab.eval import distribution as dist
from t2ilab.eval.distribution import Moments
from tests.eval.fakes import gaussian


def moments(mean, covariance, n=1000):
    """Moments whose mean and unbiased covariance are exactly those given."""
    mean, covariance = torch.as_tensor(mean).double(), torch.as_tensor(covariance).double()
    return Moments(n, n * mean, (n - 1) * covariance + n * torch.outer(mean, mean))


def frechet(real, generated):
    return dist.frechet_to(real)(generated)


def kernel(real, generated, degree=3):
    return dist.kernel_interval(real, generated, degree=degree, resamples=0).value


def test_frechet_distance_of_isotropic_gaussians_is_the_closed_form():
    a = moments(torch.zeros(8), torch.eye(8))
    b = moments(torch.full((8,), 0.5), 4 * torch.eye(8))
    assert frechet(a, b) == pytest.approx(8 * 0.25 + 8 * (2 - 1) ** 2, rel=1e-12)


def test_frechet_distance_of_commuting_covariances_sums_squared_root_differences():
    a, b = torch.tensor([1.0, 4.0, 9.0, 0.0]).double(), torch.tensor([4.0, 4.0, 1.0, 0.25]).double()
    rotation = torch.linalg.qr(gaussian(4, 4, seed=3)).Q
    turned = [moments(torch.zeros(4), rotation @ torch.diag(x) @ rotation.T) for x in (a, b)]
    assert frechet(*turned) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-6)


def test_frechet_distance_agrees_with_the_matrix_root_of_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = gaussian(200, 6, seed=1) @ gaussian(6, 6, seed=2), gaussian(300, 6, 0.3, 1.5, seed=4)
    a, b = Moments.of(x), Moments.of(y)
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    naive = (
        (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root)
    )
    assert frechet(a, b) == pytest.approx(float(naive), rel=1e-9)


def test_frechet_distance_is_symmetric_invariant_to_a_common_motion_and_quadratic_in_scale():
    x, y = gaussian(300, 5, seed=1), gaussian(200, 5, 0.4, 1.3, seed=2)
    rotation, shift = torch.linalg.qr(gaussian(5, 5, seed=5)).Q, gaussian(1, 5, seed=6)
    value = frechet(Moments.of(x), Moments.of(y))
    assert value > 0.1
    assert frechet(Moments.of(y), Moments.of(x)) == pytest.approx(value, rel=1e-10)
    moved = frechet(Moments.of(x @ rotation + shift), Moments.of(y @ rotation + shift))
    assert moved == pytest.approx(value, rel=1e-9)
    assert frechet(Moments.of(3 * x), Moments.of(3 * y)) == pytest.approx(9 * value, rel=1e-9)
    assert frechet(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_survives_singular_covariances():
    x, y = gaussian(10, 32, seed=1), gaussian(12, 32, seed=2)
    assert math.isfinite(frechet(Moments.of(x), Moments.of(y)))


def test_frechet_distance_of_samples_of_one_gaussian_is_its_known_bias():
    found = [
        frechet(Moments.of(gaussian(500, 8, seed=k)), Moments.of(gaussian(500, 8, seed=100 + k)))
        for k in range(40)
    ]
    assert np.mean(found) == pytest.approx((8 + 8 * 9 / 4) * (1 / 500 + 1 / 500), rel=0.08)


def test_moments_of_parts_add_up_to_the_whole():
    x = gaussian(101, 7, 3.0, seed=1)
    whole, parts = Moments.of(x), Moments.of(x[:40]) + Moments.of(x[40:])
    assert torch.allclose(whole.covariance, parts.covariance, atol=1e-10)
    assert torch.allclose(whole.covariance, x.T.cov(), atol=1e-10)
    assert torch.allclose((whole - Moments.of(x[40:])).mean, x[:40].mean(0), atol=1e-12)


def test_frechet_interval_is_as_wide_as_the_spread_over_fresh_samples():
    real = Moments.of(gaussian(4000, 4, seed=999))
    fresh = [frechet(real, Moments.of(gaussian(400, 4, 0.5, seed=k))) for k in range(60)]
    interval = dist.frechet_interval(real, gaussian(400, 4, 0.5, seed=7))
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * np.std(fresh), rel=0.5)
    assert interval.low < 1.0 < interval.high


def test_kernel_distance_with_a_linear_kernel_is_the_squared_distance_of_means():
    x, y = gaussian(1200, 5, 0.0, seed=1), gaussian(1200, 5, 0.7, seed=2)
    assert kernel(x, y, degree=1) == pytest.approx(0.7**2, abs=0.06)


def test_kernel_distance_is_unbiased_and_may_be_negative():
    values = [kernel(gaussian(30, 4, seed=k), gaussian(30, 4, seed=9000 + k)) for k in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(300)
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8


def test_kernel_distance_of_a_set_to_itself_is_twice_offdiagonal_minus_all():
    x = gaussian(20, 3, seed=1)
    values = (x @ x.T / 3 + 1) ** 3
    off = (values.sum() - values.trace()) / (20 * 19)
    assert kernel(x, x) == pytest.approx(float(2 * (off - values.mean())), rel=1e-12)
    assert kernel(x, x) < 0


def test_kernel_distance_sees_what_two_moments_hide():
    rng = np.random.default_rng(0)
    mixture = torch.from_numpy(rng.choice([-1.0, 1.0], (1200, 2)))
    normal = gaussian(1200, 2, seed=1)
    same = kernel(normal, gaussian(1200, 2, seed=2), degree=4)
    assert frechet(Moments.of(mixture), Moments.of(normal)) < 0.02
    assert kernel(mixture, normal, degree=4) > 10 * abs(same)


def test_kernel_interval_holds_the_truth_and_widens_with_blocks():
    x, y = gaussian(400, 4, seed=1), gaussian(100, 4, 0.5, seed=2)
    copies = y.repeat_interleave(4, 0) + 0.01 * gaussian(400, 4, seed=3)
    blocks = torch.arange(100).repeat_interleave(4)
    plain, blocked = dist.kernel_interval(x, copies), dist.kernel_interval(x, copies, blocks)
    assert plain.value == pytest.approx(blocked.value, rel=1e-12)
    assert blocked.high - blocked.low > 1.2 * (plain.high - plain.low)
    truth = kernel(gaussian(1200, 4, seed=5), gaussian(1200, 4, 0.5, seed=6))
    assert blocked.low < truth < blocked.high


def shared(n, seed):
    """Features of real and generated images of one data set, alike by the captions that they share."""
    captions = gaussian(n, 4, seed=seed)
    return captions + 0.3 * gaussian(n, 4, seed=seed + 1), captions + 0.3 * gaussian(n, 4, seed=seed + 2)


def test_pairs_that_share_a_caption_do_not_push_the_kernel_distance_below_zero():
    draws = [shared(40, 10 * k) for k in range(200)]
    kept = [dist.kernel_interval(x, y, resamples=0).value for x, y in draws]
    left_out = [dist.kernel_interval(x, y, paired=True, resamples=0).value for x, y in draws]
    assert np.mean(kept) < -5 * np.std(kept) / math.sqrt(200)
    assert abs(np.mean(left_out)) < 3 * np.std(left_out) / math.sqrt(200)


def test_paired_kernel_distance_is_the_mean_over_two_different_pairs():
    x, y = shared(12, 3)
    xx, yy, xy = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    h = xx + yy - xy - xy.T
    mean = float((h.sum() - h.trace()) / (12 * 11))
    assert dist.kernel_interval(x, y, paired=True, resamples=0).value == pytest.approx(mean, rel=1e-9)


def test_interval_of_a_paired_kernel_distance_is_as_wide_as_the_spread_over_fresh_samples():
    draws = [shared(60, 10 * k) for k in range(60)]
    found = [dist.kernel_interval(x, y + 0.5, paired=True, resamples=300) for x, y in draws]
    values = [one.value for one in found]
    assert 0.85 <= np.mean([one.low <= np.mean(values) <= one.high for one in found]) <= 1.0
    widths = [one.high - one.low for one in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.3)


def test_pairs_need_an_image_for_each_prompt():
    with pytest.raises(ValueError, match="as many prompts as real images, got 4 and 5"):
        dist.kernel_interval(gaussian(5, 2), gaussian(4, 2), paired=True)


def test_features_with_nan_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        kernel(torch.full((4, 2), math.nan), gaussian(4, 2))


class Identity(torch.nn.Module):
    num_features = 8

    def forward(self, x):
        return x


@pytest.mark.slow
def test_frechet_and_kernel_distance_agree_with_torchmetrics():
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    kid_module = pytest.importorskip("torchmetrics.image.kid")
    x, y = gaussian(300, 8, seed=1), gaussian(250, 8, 0.4, 1.2, seed=2)
    fid = fid_module.FrechetInceptionDistance(feature=Identity(), normalize=True).set_dtype(torch.float64)
    fid.update(x, real=True)
    fid.update(y, real=False)
    ours = frechet(Moments.of(x), Moments.of(y))
    assert ours == pytest.approx(float(fid.compute()), rel=1e-5)
    kid = kid_module.KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=249, normalize=True)
    kid.update(x[:250], real=True)
    kid.update(y[:250], real=False)
    theirs = float(kid.compute()[0])
    interval = dist.kernel_interval(x[:250], y[:250])
    assert interval.value == pytest.approx(theirs, rel=0.05)
