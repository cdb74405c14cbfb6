"""Autoguidance between Gaussians, where the guided estimate is known."""

import pytest
import torch

from t2ilab.core.autoguidance import Autoguidance
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from tests.oracles import Recorder, gaussian, oracle, texts

X = torch.linspace(-2, 2, 6, dtype=torch.float64).view(6, 1, 1, 1)
T = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


def rule(weaker, *numbers, **options):
    made = Autoguidance("somewhere", *numbers, **options)
    made.find = lambda denoiser: weaker
    return made


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("path", [Linear(), VPLinear()])
@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM(), EDM(0.5)])
def test_the_guided_gaussian_lies_beyond_the_good_one_as_seen_from_the_weak_one(scale, path, prediction):
    """Equal variances, means 1.5 and 0.5: the guided mean is 0.5 + w. The weak one predicts EDM(1)'s F."""
    good, weak = oracle(gaussian(1.0, 0.5), path, prediction), oracle(gaussian(0.0, 0.5), path, EDM())
    guided = rule(weak, scale).bind(good, texts(6, 0.5))(X, T)
    expected = oracle(gaussian(0.0, 0.5), path, prediction)(X, T, texts(6, 0.5 + scale))
    torch.testing.assert_close(guided.x0, expected.x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided.out, expected.out, rtol=1e-8, atol=1e-8)


def test_both_models_get_the_same_text_and_count_one_evaluation_each():
    good, weak = Recorder(1.0), Recorder(0.5)
    models = [Denoiser(backbone, Linear(), Velocity()) for backbone in (good, weak)]
    guided = rule(models[1], 3.0).bind(models[0], texts(6, 2.0))
    estimate = guided(X, T, ("last",))
    torch.testing.assert_close(estimate.out, (0.5 + 3.0 * 0.5) * X)
    assert (guided.nfe, guided.nfe_per_call) == (2, 2)
    assert "last" in estimate.taps
    for backbone in (good, weak):
        ((x, time, cond),) = backbone.calls
        assert torch.equal(x, X) and torch.equal(time, 1000 * T)
        assert cond.pooled.flatten().tolist() == [2.0] * 6


def test_scale_one_and_times_outside_the_interval_cost_one_evaluation_and_ask_the_good_model():
    good, weak = oracle(gaussian(), Linear(), Velocity()), Denoiser(Recorder(), Linear(), Velocity())
    alone = rule(weak, 1.0).bind(good, texts(6))
    assert torch.equal(alone(X, T).out, good(X, T, texts(6)).out) and alone.nfe == 1
    guided = rule(weak, 3.0, low=0.2, high=0.7).bind(good, texts(6))
    assert torch.equal(guided(X, 0.9).out, good(X, torch.full_like(T, 0.9), texts(6)).out)
    assert guided.nfe == 1
    assert not torch.equal(guided(X, 0.5).out, good(X, torch.full_like(T, 0.5), texts(6)).out)
    assert guided.nfe == 3
    rows, plain = guided(X, T).out, good(X, T, texts(6)).out
    inside = (T >= 0.2) & (T <= 0.7)
    assert [bool((a == b).all()) for a, b in zip(rows, plain, strict=True)] == (~inside).tolist()


def test_a_model_that_guides_itself_is_itself():
    good = oracle(gaussian(), Linear(), X0())
    torch.testing.assert_close(rule(good, 4.0).bind(good, texts(6))(X, T).x0, good(X, T, texts(6)).x0)


def test_while_there_is_no_weaker_model_the_good_one_samples_alone():
    good = oracle(gaussian(), Linear(), X0())
    guided = rule(None, 4.0).bind(good, texts(6))
    assert torch.equal(guided(X, T).x0, good(X, T, texts(6)).x0)
    assert guided.nfe_per_call == 1


def test_rescaling_brings_back_the_spread_of_the_good_output():
    good, weak = Denoiser(Recorder(2.0), Linear(), Velocity()), Denoiser(Recorder(1.0), Linear(), Velocity())
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    for rescale, factor in ((0.0, 5.0), (1.0, 2.0), (0.5, 3.5)):
        out = rule(weak, 4.0, rescale=rescale).bind(good, texts(6))(x, T).out
        torch.testing.assert_close(out, factor * x)


def test_a_weaker_model_that_nobody_loaded_is_an_error():
    with pytest.raises(ValueError, match="the weaker model was not loaded"):
        Autoguidance("somewhere").bind(oracle(gaussian(), Linear(), X0()), texts(6))


@pytest.mark.parametrize("options", [{"scale": -1.0}, {"low": 0.8, "high": 0.2}, {"rescale": 2.0}])
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match="guidance"):
        Autoguidance("somewhere", **options)
