import numpy as np
import pytest

from t2ilab.eval import intervals


def test_bootstrap_of_a_mean_is_as_wide_as_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = intervals.bootstrap(values)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(3.92 * values.std() / 20, rel=0.05)
    assert interval.low < interval.value < interval.high


def test_overall_is_the_unweighted_mean_of_tasks_of_different_size():
    values = np.array([1.0] * 30 + [0.0, 0.5])
    groups = ["a"] * 30 + ["b"] * 2
    assert intervals.bootstrap(values, groups).value == pytest.approx((1 + 0.25) / 2)


def test_strata_do_not_vary_against_each_other():
    values, groups = np.array([1.0] * 50 + [0.0] * 50), ["a"] * 50 + ["b"] * 50
    stratified, plain = intervals.bootstrap(values, groups), intervals.bootstrap(values)
    assert stratified.high - stratified.low == 0
    assert plain.high - plain.low > 0.15


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        interval = intervals.bootstrap((rng.random(60) < 0.6).astype(float), resamples=400, seed=seed)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_one_value_of_each_group_gives_no_interval():
    for groups in (None, ["a"], ["a", "b"]):
        interval = intervals.bootstrap(np.array([0.3, 0.7][: len(groups or "x")]), groups)
        assert interval.method.startswith("no interval") and interval.low == interval.high == interval.value


def test_one_pair_of_each_group_gives_no_interval():
    for groups in (None, ["a"], ["a", "b"]):
        before, after = np.array([0.3, 0.7][: len(groups or "x")]), np.array([0.5, 0.1][: len(groups or "x")])
        interval = intervals.paired_bootstrap(before, after, groups)
        assert interval.method.startswith("no interval") and interval.low == interval.high == interval.value


def test_bootstrap_is_seeded():
    values = np.random.default_rng(0).random(50)
    assert intervals.bootstrap(values, seed=3) == intervals.bootstrap(values, seed=3)
    assert intervals.bootstrap(values, seed=3) != intervals.bootstrap(values, seed=4)


def test_all_passed_still_leaves_doubt():
    interval = intervals.bootstrap(np.ones(80))
    assert interval.high == 1.0
    assert interval.low == pytest.approx(80 / (80 + 1.96**2), rel=1e-4)


def test_wilson_matches_known_values_and_mirrors():
    low, high = intervals.wilson(60, 100)
    assert (low, high) == (pytest.approx(0.502, abs=5e-4), pytest.approx(0.691, abs=5e-4))
    assert intervals.wilson(550, 1000) == (pytest.approx(0.519, abs=5e-4), pytest.approx(0.581, abs=5e-4))
    low_not, high_not = intervals.wilson(40, 100)
    assert (low_not, high_not) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert intervals.wilson(0, 5)[0] == 0.0
    assert intervals.wilson(5, 5)[1] == 1.0


def test_pairs_cancel_the_difficulty_of_prompts():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, 200)
    before, after = difficulty, difficulty + 0.3 + rng.normal(0, 0.5, 200)
    pair = intervals.paired_bootstrap(before, after)
    assert pair.low > 0
    assert pair.value == pytest.approx((after - before).mean())
    backwards = intervals.paired_bootstrap(after, before)
    assert backwards.value == pytest.approx(-pair.value)
    assert intervals.bootstrap(after).low < intervals.bootstrap(before).high


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        intervals.bootstrap(np.array([0.0, np.nan]))
