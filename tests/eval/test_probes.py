import numpy as np
import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.data import scenes
from t2ilab.eval.compare import BeforeAfter
from t2ilab.eval.heldout import output_drift
from t2ilab.eval.intervals import paired_bootstrap, wilson
from t2ilab.eval.probes import high_frequency, saturation, style
from t2ilab.eval.result import Evaluation, Metric


def flat(*rgb):
    return torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)


def test_saturation_is_0_for_grey_1_for_pure_colours_and_half_for_half():
    images = torch.cat([flat(0, 0, 0), flat(90, 90, 90), flat(255, 0, 0), flat(200, 100, 150)])
    assert saturation(images).tolist() == [0, 0, 1, 0.5]


def test_energy_at_high_frequencies_is_that_of_a_wave_of_its_period():
    x = torch.arange(16)
    waves = [torch.cos(2 * torch.pi * x / period) * 100 + 128 for period in (2, 4, 8, 16)]
    images = torch.stack([w.round().to(torch.uint8).view(1, 1, 16).expand(3, 16, 16) for w in waves])
    assert high_frequency(images) == pytest.approx([1, 1, 0, 0], abs=1e-3)
    assert high_frequency(flat(7, 8, 9)) == pytest.approx([0])


def test_style_is_high_for_curated_images_and_low_for_grainy_ones():
    source = scenes.SceneSource("curated", "train", size=8)
    images = source.images(range(8))
    assert style(images, scenes.judge_batch(images)).mean() > 0.9


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x, t, cond, taps=()):
        return self.factor * x, {}


def test_drift_is_0_for_the_same_network_and_the_relative_change_for_another():
    x0, texts = torch.randn(3, 2, 4, 4), Condition(torch.zeros(3, 1, 2), torch.ones(3, 1, dtype=torch.bool))
    first, other = (Denoiser(Times(factor), Linear(), Velocity()) for factor in (2.0, 3.0))
    index = torch.arange(3)
    rng = RowRng(0, 0, index, 3)
    assert output_drift(first, first, x0, texts)(index, torch.full((3,), 0.5), rng).tolist() == [0, 0, 0]
    moved = output_drift(other, first, x0, texts)(index, torch.full((3,), 0.5), rng)
    assert moved.tolist() == pytest.approx([0.25] * 3)  # ((3 - 2) / 2)^2


def test_pairs_of_shares_that_all_changed_alike_have_the_interval_of_wilson():
    zeros, ones = np.zeros(20), np.ones(20)
    low, high = wilson(20, 20)
    up, down = paired_bootstrap(zeros, ones, shares=True), paired_bootstrap(ones, zeros, shares=True)
    assert (up.value, up.low, up.high) == (1, low, high)
    assert (down.value, down.low, down.high) == (-1, -high, -low)
    same = paired_bootstrap(ones, ones, shares=True)
    assert same.value == 0 and same.high == -same.low == wilson(0, 20)[1]
    assert paired_bootstrap(ones, ones).ends == (None, None)  # of losses the same network gives the same


def test_evaluations_that_were_not_measured_alike_are_not_compared():
    one = Metric(0.5, 0.4, 0.6, 10, "mean", "share", True)
    before = Evaluation({"judge/overall": one}, {"features_digest": "a", "reference_digest": "b", "seed": 0})
    for key, named in (
        ("features_digest", "eval.scorer"),
        ("reference_digest", "data"),
        ("seed", "eval.seed"),
    ):
        other = Evaluation(before.metrics, before.meta | {key: "other"})
        with pytest.raises(
            ValueError, match=f"{key.replace('_', ' ')} was .* measure both with the same {named}"
        ):
            BeforeAfter.of(before, other)


def test_what_got_worse_is_told_of_guarded_metrics_alone_and_missing_numbers_are_null():
    def metric(value, half, better=True):
        return Metric(value, value - half, value + half, 10, "mean", "", better)

    before = {
        "judge/overall": metric(0.9, 0.01),
        "judge/colors": metric(0.9, 0.01),
        "saturation": metric(1, 0, None),
    }
    after = {"judge/overall": metric(0.5, 0.01), "judge/colors": metric(0.5, 0.01), "style": metric(1, 0)}
    found = BeforeAfter.of(
        Evaluation(before), Evaluation(after | {"fd_clip": metric(float("nan"), 0, False)})
    )
    assert [change.key for change in found.worse] == ["judge/overall"] and not found.better
    table = found.to_json()
    assert table["style"] | {"n": 0} == dict.fromkeys(("before", "difference", "low", "high"), None) | {
        "after": 1,
        "n": 0,
    }
    assert table["saturation"]["after"] is None and table["fd_clip"]["after"] is None
    assert table["judge/overall"]["difference"] == pytest.approx(-0.4)
