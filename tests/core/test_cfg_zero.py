"""CFG-Zero* where the guided velocity is known by hand."""

import pytest
import torch

from t2ilab.core.cfg_zero import CFGZero, projection
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG
from t2ilab.core.path import Linear, Trig, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from tests.oracles import gaussian, oracle, texts

X = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


class Field(torch.nn.Module):
    """A backbone whose velocity on the linear path is `text` times its input, stated as x0: x - t v."""

    def forward(self, x, time, cond, taps=()):
        return x * (1 - time * cond.pooled[:, 0]).view(-1, 1, 1, 1), {}


def test_a_worked_example():
    """u_c = (3, 1), u_u = (1, 1): s = 4 / 2, so (2, 2) + w ((3, 1) - (2, 2))."""
    conditional, null = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    torch.testing.assert_close(projection(conditional, null), torch.tensor([[2.0, 2.0]]))
    for w in (0.0, 1.0, 2.5):
        out = CFGZero(w).combine(conditional, projection(conditional, null), w)
        torch.testing.assert_close(out, torch.tensor([[2.0 + w, 2.0 - w]]))


def test_the_projection_on_a_velocity_of_nearly_nothing_is_held_small():
    """|u|^2 = 1e-8: s = <onto, u> / (|u|^2 + 1e-8) is half of what it would be."""
    onto, nearly = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[1e-4, 0.0]]).double()
    torch.testing.assert_close(projection(onto, nearly), torch.tensor([[1.5, 0.0]]).double())
    assert projection(onto, torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


def test_what_is_left_of_the_conditional_velocity_is_orthogonal_to_the_projection_of_each_sample():
    one, other = X, X.flip(0)
    onto = projection(one, other)
    left = ((one - onto) * onto).sum((1, 2, 3))
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-7)
    torch.testing.assert_close(projection(one[2:3], other[2:3])[0], onto[2])  # nothing of the other rows


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 7.5])
def test_parallel_velocities_give_the_conditional_one_for_every_scale(scale):
    denoiser = Denoiser(Field(), Linear(), X0(), time_scale=1.0)
    guided = CFGZero(scale).bind(denoiser, texts(6, 1.5), texts(6, -0.4))(X, T)
    torch.testing.assert_close(guided.velocity(), 1.5 * X, rtol=1e-6, atol=1e-6)
    if scale not in (0.0, 1.0):
        plain = CFG(scale).bind(denoiser, texts(6, 1.5), texts(6, -0.4))(X, T)
        torch.testing.assert_close(plain.velocity(), (-0.4 + scale * 1.9) * X)


@pytest.mark.parametrize("path", [Linear(), Trig(), VPLinear()])
@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM()])
def test_the_velocity_is_guided_whatever_the_network_predicts(path, prediction):
    distribution = gaussian(0.3, 0.5)
    denoiser = oracle(distribution, path, prediction)
    guided = CFGZero(3.0).bind(denoiser, texts(6, 1.5), texts(1, -0.5))(X, T)
    conditional = denoiser(X, T, texts(6, 1.5)).velocity()
    null = denoiser(X, T, texts(6, -0.5)).velocity()
    share = (conditional * null).sum((1, 2, 3), keepdim=True) / null.square().sum((1, 2, 3), keepdim=True)
    expected = share * null + 3.0 * (conditional - share * null)
    torch.testing.assert_close(guided.velocity(), expected, rtol=1e-6, atol=1e-6)
    assert type(guided.prediction) is type(prediction)  # a sampler reads it as it reads the network
    linear = CFG(3.0).bind(denoiser, texts(6, 1.5), texts(1, -0.5))(X, T)
    assert (guided.velocity() - linear.velocity()).abs().max() > 0.01


def test_scale_one_is_the_conditional_model_for_one_evaluation():
    denoiser = oracle(gaussian(), Linear(), Velocity())
    guided = CFGZero(1.0).bind(denoiser, texts(6, 1.5), texts(1))
    assert torch.equal(guided(X, T).out, denoiser(X, T, texts(6, 1.5)).out)
    assert guided.nfe == 1


def test_outside_the_interval_the_conditional_model_is_sampled():
    denoiser = oracle(gaussian(), Linear(), Velocity())
    guided = CFGZero(3.0, low=0.2, high=0.7).bind(denoiser, texts(6, 1.5), texts(1, -0.5))
    rows, plain = guided(X, T), denoiser(X, T, texts(6, 1.5))
    whole = CFGZero(3.0).bind(denoiser, texts(6, 1.5), texts(1, -0.5))(X, T)
    for i, t in enumerate(T.tolist()):
        expected = whole if 0.2 <= t <= 0.7 else plain
        torch.testing.assert_close(rows.out[i], expected.out[i])
        torch.testing.assert_close(guided(X, t).out[i], expected.out[i])


def test_rescaling_brings_back_the_spread_of_the_conditional_velocity():
    denoiser = oracle(gaussian(), Linear(), Eps())
    full = CFGZero(4.0, rescale=1.0).bind(denoiser, texts(6, 1.5), texts(1, -0.5))(X, T).velocity()
    spread = denoiser(X, T, texts(6, 1.5)).velocity().std((1, 2, 3))
    torch.testing.assert_close(full.std((1, 2, 3)), spread)


def test_a_silent_unconditional_branch_leaves_w_times_the_conditional_velocity():
    denoiser = Denoiser(Field(), Linear(), X0(), time_scale=1.0)
    guided = CFGZero(3.0).bind(denoiser, texts(6, 1.5), texts(6, 0.0))(X, T)
    torch.testing.assert_close(guided.velocity(), 4.5 * X)


@pytest.mark.parametrize(
    "make", [lambda: CFGZero(-1.0), lambda: CFGZero(zero_steps=-1), lambda: CFGZero(low=0.5, high=0.5)]
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match="guidance"):
        make()
