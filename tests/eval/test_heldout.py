import numpy as np
import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import VE, Linear, VPCosine
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.eval.heldout import HeldOut, loss_bins, output_loss


class Zero(torch.nn.Module):
    def forward(self, x, t, cond, taps=()):
        return torch.zeros_like(x), {}


def condition(n):
    return Condition(torch.zeros(n, 1, 2), torch.ones(n, 1, dtype=torch.bool))


def test_times_fill_every_stratum_once_per_image():
    times = HeldOut(50, strata=8, low=0.1, high=0.9).times()
    assert times.shape == (50, 8)
    cell = ((times - 0.1) / 0.8 * 8).floor()
    assert torch.equal(cell, torch.arange(8.0).expand(50, 8))


def test_loss_is_the_same_for_every_batch_size():
    x0 = torch.randn(30, 2, 4, 4)
    denoiser = Denoiser(Zero(), Linear(), Velocity())
    losses = [HeldOut(30, batch_size=size)(output_loss(denoiser, x0, condition(30))) for size in (7, 240)]
    assert torch.equal(*losses)


def test_velocity_loss_of_a_network_that_says_zero_is_two_for_unit_data():
    x0 = torch.randn(200, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(Zero(), Linear(), Velocity())
    losses = HeldOut(200, strata=4)(output_loss(denoiser, x0, condition(200)))
    assert float(losses.mean()) == pytest.approx(2.0, abs=0.03)


class Perfect(torch.nn.Module):
    """Knows the noise and says it with an error of a hundredth."""

    def __init__(self, path, prediction, x0, eps):
        super().__init__()
        self.known = path, prediction, x0, eps

    def forward(self, x, t, cond, taps=()):
        path, prediction, x0, eps = self.known
        return 1.01 * prediction.target(path, x0, eps, self.at), {}


@pytest.mark.parametrize(
    ("path", "prediction"),
    [(VE(), EDM()), (VE(), Eps()), (VE(), Score()), (VPCosine(), Eps()), (VPCosine(), V()), (Linear(), X0())],
    ids=lambda part: type(part).__name__,
)
def test_an_error_of_a_hundredth_of_the_output_is_seen_at_every_time(path, prediction):
    x0 = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    rng = RowRng(0, 0, torch.arange(64), 64)
    eps = rng.normal("heldout/eps", 2, 4, 4)
    network = Perfect(path, prediction, x0, eps)
    loss = output_loss(Denoiser(network, path, prediction), x0, condition(64))
    for time in (0.02, 0.5, 0.98):
        network.at = torch.full((64,), time)
        assert float(loss(torch.arange(64), network.at, rng).mean()) == pytest.approx(1e-4, rel=0.2)


def test_bins_average_the_times_inside_them():
    grid = HeldOut(10, strata=8)
    bins = loss_bins(grid.times().double(), grid.times())
    assert list(bins) == ["t0.00-0.25", "t0.25-0.50", "t0.50-0.75", "t0.75-1.00"]
    for k, values in enumerate(bins.values()):
        assert np.all((values >= 0.25 * k) & (values < 0.25 * (k + 1)))
        assert values.shape == (10,)


def test_bins_without_times_are_left_out():
    grid = HeldOut(10, strata=4, low=0.5, high=1.0)
    assert list(loss_bins(grid.times(), grid.times())) == ["t0.50-0.75", "t0.75-1.00"]


def test_loss_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        HeldOut(4)(lambda index, t, rng: t / 0)
