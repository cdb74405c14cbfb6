"""Transitions: what is drawn is what has the probability, and gradients pass where they are asked for."""

import math

import pytest
import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear, VPLinear
from t2ilab.core.prediction import V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.latents.identity import Identity
from t2ilab.sampling.grid import Grid, LastStepGrid
from t2ilab.sampling.markov import Transition
from t2ilab.sampling.ode import Euler
from t2ilab.sampling.sde import EulerMaruyama
from t2ilab.sampling.vp import DDIM, DDPM
from tests.oracles import gaussian, oracle

ROWS = 3
MARKOV = [
    (EulerMaruyama(LastStepGrid(6, last=0.05), w=1.0), Linear(), Velocity()),
    (DDIM(Grid(6), eta=0.8), VPLinear(), V()),
    (DDPM(Grid(6)), VPLinear(), V()),
]


class Small(nn.Module):
    """A backbone with weights, that counts the calls that build a graph."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(2, 2, 3, padding=1)
        self.graphs = 0

    def forward(self, x, time, condition, taps=()):
        out = self.mix(x) * (1 + time.view(-1, 1, 1, 1) / 1000)
        self.graphs += out.requires_grad
        return out, {}


def rng():
    return RowRng(3, 0, torch.arange(ROWS), ROWS)


def noise():
    return torch.randn(ROWS, 2, 4, 4, generator=torch.Generator().manual_seed(5))


def test_the_log_probability_is_that_of_torch_and_its_gradient_the_noise_over_the_std():
    mean = torch.randn(ROWS, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    step, z = Transition(mean, std), torch.randn(ROWS, 2, 4, 4, dtype=torch.float64)
    x = step.sample(z).detach()
    found = step.log_prob(x)
    expected = torch.distributions.Normal(mean, std.view(-1, 1, 1, 1)).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), mean)
    assert torch.allclose(gradient, z / std.view(-1, 1, 1, 1))


def test_a_step_without_noise_is_its_mean_and_has_no_density():
    mean = torch.randn(2, 1, 2, 2)
    step = Transition(mean, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(step.sample(torch.randn(2, 1, 2, 2)), mean)
    with pytest.raises(ValueError, match="no log-probability"):
        step.log_prob(mean)


@pytest.mark.parametrize(("sampler", "path", "prediction"), MARKOV)
def test_the_ratio_is_one_on_the_first_inner_step_and_not_on_the_second(sampler, path, prediction):
    denoiser = Denoiser(Small(), path, prediction)
    times = sampler.grid.times(path)
    drawn = sampler(denoiser, noise(), rng=rng(), keep_states=True)

    def log_probs():
        found = []
        for i in range(len(drawn.log_probs)):
            x, t, s = drawn.states[i], times[i].expand(ROWS), times[i + 1].expand(ROWS)
            step = sampler.transition(denoiser(x, t.to(x.dtype), None), x, t, s)
            found.append(step.log_prob(drawn.states[i + 1]))
        return torch.stack(found)

    first = log_probs()
    assert torch.equal(first.detach(), drawn.log_probs), "to the last bit"
    (-(first - drawn.log_probs).exp().mean()).backward()
    assert denoiser.backbone.mix.weight.grad.abs().max() > 0
    with torch.no_grad():
        denoiser.backbone.mix.weight -= 0.1 * denoiser.backbone.mix.weight.grad.sign()
    assert ((log_probs() - drawn.log_probs).exp() - 1).abs().min() > 1e-4


def test_a_transition_of_rows_at_different_times_is_that_of_each_row():
    sampler, path, prediction = MARKOV[0]
    denoiser, x = Denoiser(Small(), path, prediction), noise()
    t = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    s = torch.tensor([0.8, 0.3, 0.05], dtype=torch.float64)
    together = sampler.transition(denoiser(x, t.float(), None), x, t, s)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = sampler.transition(denoiser(x[one], t[one].float(), None), x[one], t[one], s[one])
        assert torch.allclose(together.mean[one], alone.mean, atol=1e-6)
        assert torch.equal(together.std[one], alone.std)


def test_the_variance_of_gaussian_data_follows_its_recursion():
    """V' = V (1 - dt (c + w(t) / (2 V(t))))^2 + w(t) dt with the ODE's slope c = (t - (1 - t) s^2) / V(t)."""
    w, spread = 1.3, 0.5
    sampler = EulerMaruyama(Grid(10), w=w)
    denoiser = oracle(gaussian(0.0, spread), Linear(), Velocity())
    x = torch.tensor([-1.0, 0.5], dtype=torch.float64).view(2, 1, 1, 1)
    for t, s in ((0.9, 0.8), (0.5, 0.4), (0.2, 0.1)):
        times = [torch.full((2,), time, dtype=torch.float64) for time in (t, s)]
        step = sampler.transition(denoiser(x, times[0], None), x, *times)
        variance = (1 - t) ** 2 * spread**2 + t**2
        slope = 1 - (t - s) * ((t - (1 - t) * spread**2) / variance + w * t / (2 * variance))
        assert torch.allclose(step.mean, slope * x, rtol=1e-9)
        assert step.std[0].item() == pytest.approx(math.sqrt(w * t * (t - s)))


def flow_grpo(velocity, x, t=0.6, s=0.5):
    """The step of Flow-GRPO, std^2 = 0.49 t / (1 - t), with a network that says `velocity`."""
    times = [torch.full((len(x),), time, dtype=torch.float64) for time in (t, s)]
    estimate = Velocity().resolve(Linear(), velocity, x, times[0])
    return EulerMaruyama(Grid(10), w=0.7**2 / 2, diffusion="path").transition(estimate, x, *times)


def test_the_gradient_of_the_log_probability_by_the_velocity_is_that_of_the_mean_times_the_noise():
    """mean = x (1 - std^2 dt / 2t) - v (1 + std^2 (1 - t) / 2t) dt,  ln p = -|x' - mean|^2 / (2 std^2 dt) + const."""
    x, v, z = torch.randn(3, ROWS, 2, 4, 4, dtype=torch.float64)
    v.requires_grad_()
    step = flow_grpo(v, x)
    step.log_prob(step.sample(z).detach()).sum().backward()
    square, dt = 0.49 * 0.6 / 0.4, 0.1
    speed = (1 + square * 0.4 / 1.2) * dt
    torch.testing.assert_close(step.mean, x * (1 - square * dt / 1.2) - speed * v)
    torch.testing.assert_close(v.grad, -speed * z / math.sqrt(square * dt))


def test_the_divergence_of_two_steps_is_that_of_their_velocities():
    """dt / 2 (std (1 - t) / 2t + 1 / std)^2 dv^2 of each number: 4.21776e-5 at t = 0.6, dt = 0.1, dv = 0.02."""
    x, v = torch.randn(2, ROWS, 2, 4, 4, dtype=torch.float64)
    own, other = (
        torch.distributions.Normal(step.mean, step.std.view(-1, 1, 1, 1))
        for step in (flow_grpo(v, x), flow_grpo(v + 0.02, x))
    )
    found = torch.distributions.kl_divergence(own, other)
    torch.testing.assert_close(found, torch.full_like(found, 4.21776e-5), rtol=1e-5, atol=0)


def test_ratios_of_whole_images_have_the_mean_1_and_those_of_means_over_numbers_less():
    """exp(-k / 2D + k / 2D^2) with k = |dmean|^2 / std^2: 0.91586 for D = 16 and k = 3."""
    rows, std = 100_000, 0.3
    z = torch.randn(rows, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stds = torch.full((rows,), std, dtype=torch.float64)
    old, new = (Transition(torch.full_like(z, mean), stds) for mean in (0.0, std * math.sqrt(3 / 16)))
    log_ratio = new.log_prob(old.sample(z)) - old.log_prob(old.sample(z))
    assert float(log_ratio.exp().mean()) == pytest.approx(1, abs=0.06)
    assert float((log_ratio / 16).exp().mean()) == pytest.approx(0.91586, abs=2e-3)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_only_the_last_steps_build_a_graph(last):
    denoiser = Denoiser(Small(), Linear(), Velocity())
    states = list(Euler(Grid(5)).walk(denoiser, noise(), grad_last=last))
    assert denoiser.backbone.graphs == last
    assert [state.requires_grad for state in states] == [False] * (6 - last) + [True] * last
    called = Euler(Grid(5))(denoiser, noise(), keep_states=True)
    assert all(torch.equal(a, b) for a, b in zip(states, called.states, strict=True))
    assert not called.x.requires_grad
    with torch.no_grad():
        assert not any(s.requires_grad for s in Euler(Grid(5)).walk(denoiser, noise(), grad_last=last))


def test_the_gradient_of_a_linear_reward_by_the_last_velocity_is_minus_the_time_times_its_weights():
    """x0 = x_t - t v: dr / dv = -t a for r = a x0."""

    class Spoken(nn.Module):
        def __init__(self):
            super().__init__()
            self.velocity = nn.Parameter(torch.randn(ROWS, 2, 4, 4))

        def forward(self, x, time, condition, taps=()):
            return 0 * x + self.velocity, {}

    denoiser = Denoiser(Spoken(), Linear(), Velocity())
    sampler, weights = Euler(Grid(5)), torch.randn(2, 4, 4)
    *_, x0 = sampler.walk(denoiser, noise(), grad_last=1)
    (weights * x0).sum().backward()
    last = float(sampler.grid.times(Linear())[-2])
    assert torch.allclose(
        denoiser.backbone.velocity.grad, -last * weights.expand(ROWS, -1, -1, -1), atol=1e-6
    )


@pytest.mark.parametrize(("sampler", "path", "prediction"), MARKOV)
def test_gradients_pass_through_the_last_steps_of_samplers_with_noise(sampler, path, prediction):
    denoiser = Denoiser(Small(), path, prediction)
    *_, x0 = sampler.walk(denoiser, noise(), rng=rng(), grad_last=2)
    x0.square().mean().backward()
    assert denoiser.backbone.mix.weight.grad.abs().max() > 0
    assert denoiser.backbone.graphs == 2


def test_decoding_without_a_clamp_has_a_gradient_everywhere():
    autoencoder = Identity()
    z = torch.full((1, 3, 2, 2), 5.0, requires_grad=True)
    autoencoder.decode(z).sum().backward()
    assert z.grad.abs().max() == 0
    autoencoder.decode(z, clamp=False).sum().backward()
    assert z.grad.abs().min() > 0


def test_a_walk_refuses_a_negative_number_of_steps():
    with pytest.raises(ValueError, match="grad_last"):
        next(Euler(Grid(2)).walk(Denoiser(Small(), Linear(), Velocity()), noise(), grad_last=-1))
