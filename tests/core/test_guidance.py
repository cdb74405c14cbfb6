"""Guidance on Gaussians, where the guided distribution is known, and what each rule costs."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG, IntervalCFG, NoGuidance
from t2ilab.core.path import Linear, Trig, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from tests.oracles import Recorder, gaussian, oracle, texts

X = torch.linspace(-2, 2, 6, dtype=torch.float64).view(6, 1, 1, 1)
T = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


def shifted_oracle(prediction, path=None):
    """N(pooled, 0.5^2): the text says where the mean is, the empty text says 0."""
    return oracle(gaussian(0.0, 0.5), path or Linear(), prediction)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("path", [Linear(), Trig(), VPLinear()])
@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM()])
def test_guided_gaussian_is_the_gaussian_with_the_guided_mean(scale, path, prediction):
    denoiser = shifted_oracle(prediction, path)
    guided = CFG(scale).bind(denoiser, texts(6, 1.5), texts(1, -0.5))(X, T)
    expected = denoiser(X, T, texts(6, -0.5 + scale * 2.0))
    torch.testing.assert_close(guided.x0, expected.x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided.velocity(), expected.velocity(), rtol=1e-8, atol=1e-8)


def test_scale_one_is_the_conditional_model_for_one_evaluation():
    denoiser = shifted_oracle(Velocity())
    guided = CFG(1.0).bind(denoiser, texts(6, 1.5), texts(1))
    assert torch.equal(guided(X, T).out, denoiser(X, T, texts(6, 1.5)).out)
    assert (guided.nfe, guided.nfe_per_call) == (1, 1)


def test_both_branches_run_in_one_batch_and_count_twice():
    backbone = Recorder()
    guided = CFG(3.0).bind(Denoiser(backbone, Linear(), Velocity()), texts(6, 1.0), texts(1, 2.0))
    guided(X, T)
    ((x, time, cond),) = backbone.calls
    assert (len(x), len(time), len(cond)) == (12, 12, 12)
    assert cond.pooled.flatten().tolist() == [1.0] * 6 + [2.0] * 6
    assert (guided.nfe, guided.nfe_per_call) == (2, 2)


def test_interval_guides_inside_only_for_times_of_rows_and_for_numbers_alike():
    denoiser = shifted_oracle(Velocity())
    rule = IntervalCFG(3.0, low=0.2, high=0.7)
    guided = rule.bind(denoiser, texts(6, 1.0), texts(1))
    rows = guided(X, T)
    with_guidance = CFG(3.0).bind(denoiser, texts(6, 1.0), texts(1))(X, T)
    without = denoiser(X, T, texts(6, 1.0))
    for i, t in enumerate(T.tolist()):
        expected = with_guidance if 0.2 <= t <= 0.7 else without
        torch.testing.assert_close(rows.out[i], expected.out[i])
        torch.testing.assert_close(guided(X, t).out[i], expected.out[i])


def test_interval_costs_one_evaluation_outside_and_two_inside_its_ends():
    guided = IntervalCFG(3.0, low=0.2, high=0.7).bind(shifted_oracle(X0()), texts(6), texts(1))
    for t, cost in ((0.1, 1), (0.2, 2), (0.5, 2), (0.7, 2), (0.1 * 7, 2), (0.71, 1), (0.9, 1)):
        before = guided.nfe
        guided(X, t)
        assert guided.nfe - before == cost, t


def test_rescaling_brings_back_the_spread_of_the_conditional_output():
    class Stretch(torch.nn.Module):
        def forward(self, x, time, cond, taps=()):
            return x * (1 + cond.pooled.view(-1, 1, 1, 1)), {}

    denoiser = Denoiser(Stretch(), Linear(), Velocity())
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    cond, null = texts(6, 1.0), texts(1)

    def sample(rescale):
        return CFG(4.0, rescale=rescale).bind(denoiser, cond, null)(x, T).out

    torch.testing.assert_close(sample(0.0), 5.0 * x)
    torch.testing.assert_close(sample(1.0), 2.0 * x)
    torch.testing.assert_close(sample(0.5), 3.5 * x)


def test_guidance_is_equivariant_under_permutations_of_the_rows():
    denoiser = shifted_oracle(Velocity())
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    cond = texts(6)
    cond.pooled.copy_(torch.arange(6.0)[:, None])
    out = CFG(2.0).bind(denoiser, cond, texts(1))(X, T).out
    mixed = CFG(2.0).bind(denoiser, cond[order], texts(1))(X[order], T[order]).out
    torch.testing.assert_close(mixed, out[order])


def test_taps_belong_to_the_conditional_branch():
    denoiser = Denoiser(Recorder(), Linear(), Velocity())
    estimate = CFG(2.0).bind(denoiser, texts(6), texts(1))(X, T, ("last",))
    assert estimate.taps["last"].shape == (6, 1, 1)
    assert len(estimate.x_t) == len(estimate.t) == 6


def test_a_null_text_per_row_is_used_row_by_row():
    denoiser = shifted_oracle(X0())
    null = texts(6)
    null.pooled.copy_(torch.arange(6.0)[:, None])
    guided = CFG(0.0).bind(denoiser, texts(6, 9.0), null)(X, T)
    torch.testing.assert_close(guided.x0, denoiser(X, T, null).x0)


def test_no_guidance_works_without_texts_and_two_branches_refuse():
    denoiser = shifted_oracle(X0())
    assert NoGuidance().bind(denoiser, None)(X, 0.5).x0.shape == X.shape
    for cond, null in ((None, None), (texts(6), None), (None, texts(1))):
        with pytest.raises(ValueError, match="guidance=none"):
            CFG(2.0).bind(denoiser, cond, null)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CFG(-1.0),
        lambda: CFG(float("nan")),
        lambda: CFG(2.0, rescale=2.0),
        lambda: IntervalCFG(2.0, low=0.7, high=0.2),
    ],
)
def test_impossible_options_are_refused_by_name(make):
    with pytest.raises(ValueError, match="guidance"):
        make()
