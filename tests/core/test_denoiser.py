"""What reaches the backbone, and what comes back."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear
from t2ilab.core.prediction import EDM, Eps, V, Velocity
from tests.oracles import Recorder, texts


def test_backbone_sees_the_input_and_a_thousand_times_t():
    backbone = Recorder()
    x, t, cond = torch.randn(3, 2, 4, 4), torch.tensor([0.0, 0.5, 1.0]), texts(3)
    Denoiser(backbone, Linear(), Velocity())(x, t, cond)
    ((seen, time, passed),) = backbone.calls
    assert torch.equal(seen, x) and passed is cond
    assert time.tolist() == [0.0, 500.0, 1000.0]


def test_edm_backbone_sees_unit_variance_and_a_quarter_of_the_log_noise_level():
    backbone = Recorder()
    path, t = VE(), torch.full((4000,), 0.9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4000, 1, 1, 1, generator=generator, dtype=torch.float64)
    Denoiser(backbone, path, EDM(1.0), time_scale=1.0)(path.mix(x0, eps, t), t, None)
    ((seen, time, _),) = backbone.calls
    assert seen.var() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(time, path.sigma(t).log() / 4)


@pytest.mark.parametrize(("low", "high"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32)])
def test_arithmetic_on_the_output_is_float32_whatever_the_backbone_returns(low, high):
    class Half(torch.nn.Module):
        def forward(self, x, time, cond, taps=()):
            return x.to(low), {}

    x, t = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 0.5, 1.0])
    with torch.autocast("cpu", torch.bfloat16):
        estimate = Denoiser(Half(), Linear(), Velocity())(x, t, None)
        values = (estimate.x0, estimate.eps, estimate.velocity(), estimate.score())
    assert all(value.dtype == high for value in values)
    expected = x - t.view(-1, 1, 1, 1) * x.to(low).float()
    torch.testing.assert_close(estimate.x0, expected, rtol=0, atol=1e-6)


def test_taps_are_handed_out():
    estimate = Denoiser(Recorder(), Linear(), Velocity())(
        torch.randn(2, 3, 4, 4), torch.rand(2), None, ("block1",)
    )
    assert estimate.taps["block1"].shape == (2, 16, 3)


def test_gradients_reach_the_backbone_through_every_reading():
    backbone = torch.nn.Conv2d(2, 2, 1)

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = backbone

        def forward(self, x, time, cond, taps=()):
            return self.conv(x), {}

    denoiser = Denoiser(Wrapped(), Linear(), Velocity())
    estimate = denoiser(torch.randn(2, 2, 3, 3), torch.tensor([0.3, 0.6]), None)
    for value in (estimate.x0, estimate.eps, estimate.velocity(), estimate.score(), estimate.read(V())):
        (gradient,) = torch.autograd.grad(value.sum(), backbone.weight, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert {name for name, _ in denoiser.named_parameters()} == {"backbone.conv.weight", "backbone.conv.bias"}


def test_a_time_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="time_scale"):
        Denoiser(Recorder(), Linear(), Velocity(), time_scale=0.0)


@pytest.mark.parametrize("steps", [1000, 777])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_of_discrete_steps_is_told_each_step_exactly_counted_from_zero(steps, dtype):
    path, backbone = Discrete(1e-4, 0.02, steps=steps), Recorder()
    denoiser = Denoiser(backbone, path, Eps(), **path.counted_from_zero)
    t = torch.arange(1, steps + 1).to(dtype) / steps
    denoiser(torch.zeros(steps, 1, 1, 1), t, texts(steps))
    assert backbone.calls[0][1].tolist() == list(range(steps))


def test_between_the_steps_the_time_runs_on_and_before_the_first_it_stands():
    path, backbone = Discrete(1e-4, 0.02), Recorder()
    t = torch.tensor([0.0, 0.0005, 0.0014, 0.5005])
    Denoiser(backbone, path, Eps(), **path.counted_from_zero)(torch.zeros(4, 1, 1, 1), t, texts(4))
    assert backbone.calls[0][1].tolist() == pytest.approx([0, 0, 0.4, 499.5], abs=1e-4)
