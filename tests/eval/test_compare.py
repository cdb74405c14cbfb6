import numpy as np
import pytest
import torch

from t2ilab.eval.compare import BeforeAfter, compare, table
from t2ilab.eval.result import Evaluation, Metric, Outcomes, significant
from t2ilab.eval.summary import Summary
from tests.eval.fakes import painter
from tests.eval.test_evaluator import evaluator, loss_fn


def by_key(changes):
    return {change.key: change for change in changes}


def test_more_right_images_are_better_and_the_reverse_is_worse():
    before, after = evaluator()(painter(0.3)), evaluator()(painter(0.9))
    forward, backward = by_key(compare(before, after)), by_key(compare(after, before))
    assert forward["judge/overall"].verdict == "better"
    assert backward["judge/overall"].verdict == "worse"
    assert forward["judge/overall"].paired
    gap = forward["judge/overall"].difference
    assert gap.value == pytest.approx(after["judge/overall"].value - before["judge/overall"].value)
    assert gap.low <= gap.value <= gap.high


def test_lower_loss_is_better():
    before = evaluator()(painter(), loss_fn)
    after = evaluator()(painter(), lambda index, t, rng: loss_fn(index, t, rng) - 0.1)
    change = by_key(compare(before, after))["loss/heldout"]
    assert change.verdict == "better"
    assert change.difference.value == pytest.approx(-0.1, abs=1e-5)


def test_same_model_twice_is_unclear_everywhere():
    evaluation = evaluator()(painter(0.5), loss_fn)
    assert {change.verdict for change in compare(evaluation, evaluation)} == {"unclear"}


def test_the_drift_of_a_network_that_has_not_moved_has_no_interval_and_a_small_one_keeps_its_own(tmp_path):
    def measured(drift):
        summary = Summary(0)
        summary.add_grid("drift", torch.tensor(drift, dtype=torch.float64)[:, None], better=None)
        meta = {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "p"}
        return Evaluation.load(Evaluation(summary.metrics, meta, summary.outcomes).save(tmp_path / "e.json"))

    before, after = measured([0.0] * 4), measured([2e-8, 4e-8, 6e-8, 8e-8])
    assert (before["drift"].low, before["drift"].high) == (None, None)
    small, none = (by_key(compare(before, one))["drift"] for one in (after, before))
    assert 0 < small.difference.low < small.difference.value < small.difference.high
    assert (none.difference.low, none.verdict) == (None, "unclear")


def test_pairs_are_narrower_than_two_intervals():
    before, after = evaluator()(painter(0.5)), evaluator()(painter(0.6))
    pair = by_key(compare(before, after))["judge/overall"].difference
    apart = Evaluation(before.metrics, {**before.meta, "seed": 17}, before.outcomes)
    loose = by_key(compare(apart, after))["judge/overall"]
    assert not loose.paired
    assert pair.high - pair.low < loose.difference.high - loose.difference.low


def test_task_differences_use_the_pairs_of_that_task():
    before, after = evaluator()(painter(0.3)), evaluator()(painter(0.9))
    change = by_key(compare(before, after))["judge/colors"]
    assert change.paired
    assert change.difference.n == 5


def of_one_prompt(value):
    meta = {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "x"}
    outcomes = {"clip_score": Outcomes(np.array([value]))}
    return Evaluation({"clip_score": Metric(value, None, None, 1, "mean", "", True)}, meta, outcomes)


def test_one_prompt_makes_nothing_better_or_worse():
    found = BeforeAfter.of(of_one_prompt(15.0), of_one_prompt(12.0))
    (change,) = found.changes
    assert change.paired and change.difference.value == -3
    assert change.difference.low is None and change.verdict == "unclear"
    assert found.better == found.worse == []


def test_only_common_metrics_are_compared():
    one = Metric(0.5, 0.4, 0.6, 10, "bootstrap", "share", True)
    assert [c.key for c in compare(Evaluation({"a": one}), Evaluation({"a": one, "b": one}))] == ["a"]


def test_losses_of_networks_that_predict_other_things_are_not_compared():
    one = {
        "loss/heldout": Metric(0.5, 0.4, 0.6, 10, "mean"),
        "judge/overall": Metric(0.5, 0.4, 0.6, 10, "mean"),
    }
    flow = Evaluation(one, {"predicts": "Velocity on Linear"})
    noise = Evaluation(one, {"predicts": "Eps on VPCosine"})
    assert [change.key for change in compare(flow, flow)] == ["loss/heldout", "judge/overall"]
    assert [change.key for change in compare(flow, noise)] == ["judge/overall"]


def test_terminal_tables_name_every_metric():
    console = pytest.importorskip("rich.console").Console(width=160, record=True, file=None, quiet=False)
    before, after = evaluator()(painter(0.3)), evaluator()(painter(0.9))
    with console.capture() as capture:
        console.print(after.table())
        console.print(table(compare(before, after)))
    text = capture.get()
    for key in after:
        assert text.count(key) >= 2
    assert "better" in text


def test_a_terminal_of_80_columns_shows_numbers_and_verdicts_whole():
    name, tiny = "personal/class_similarity", 1.234e-6
    one = Metric(0.9421, 0.931, 0.951, 9, "mean", "", True)
    other = Metric(0.9421 + tiny, 0.931, 0.951, 9, "mean", "", True)
    outcomes = {name: Outcomes(np.arange(9) / 9)}, {name: Outcomes(np.arange(9) / 9 + tiny)}
    meta = {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "x"}
    before, after = (
        Evaluation({name: metric}, meta, values)
        for metric, values in zip((one, other), outcomes, strict=True)
    )
    console = pytest.importorskip("rich.console").Console(width=80)
    with console.capture() as capture:
        console.print(table(compare(before, after)))
    assert capture.get().split()[-6:] == ["0.942", "+1.2e-06", "1.2e-06", "..", "1.2e-06", "better"]
    assert significant(0.00012) == "0.000120" and significant(0.000012) == "1.2e-05"
