import pickle

import numpy as np
import pytest
import torch

from t2ilab.eval import summary
from t2ilab.eval.evaluator import Evaluator, Reference
from t2ilab.eval.heldout import HeldOut
from t2ilab.eval.result import TASKS, Evaluation
from tests.eval.fakes import ColorWorld, MeanFeatures, painter

CAPTIONS = tuple(f"a {c} square, number {k}" for k in range(10) for c in ("red", "green", "blue", "yellow"))


def evaluator(**changes):
    world = ColorWorld()
    reference = Reference(painter(seed=9)(list(CAPTIONS), torch.arange(len(CAPTIONS))), CAPTIONS)
    options = {
        "prompts": {"judge": world.prompts("test", 5, 0), "compose": world.prompts("compose", 2, 0)},
        "reference": reference,
        "features": MeanFeatures(),
        "judge": world,
        "heldout": HeldOut(20, strata=4),
        "samples_per_prompt": 3,
    }
    return Evaluator(**{**options, **changes})


def loss_fn(index, t, rng):
    return t + 0.001 * index + 0.01 * rng.normal("eps", 1)[:, 0]


def test_keys_are_those_that_others_rely_on():
    evaluation = evaluator()(painter(0.7), loss_fn)
    wanted = [f"judge/{key}" for key in ("overall", *TASKS)] + [
        f"compose/{key}" for key in ("overall", *TASKS)
    ]
    wanted += ["fd_clip", "kid_clip", "clip_score", "diversity", "loss/heldout"]
    wanted += ["loss/t0.00-0.25", "loss/t0.25-0.50", "loss/t0.50-0.75", "loss/t0.75-1.00", "close_calls"]
    assert list(evaluation) == wanted
    for key in evaluation:
        metric = evaluation[key]
        assert metric.low <= metric.value <= metric.high, key
        assert metric.n > 0
        assert metric.method


def test_the_strata_of_the_held_out_loss_have_it_as_their_mean_and_stay_out_of_the_file():
    evaluation = evaluator(heldout=HeldOut(20, strata=5, low=0.1, high=0.9))(None, loss_fn)
    strata = evaluation.strata
    assert [s.low for s in strata] == pytest.approx([0.1, 0.26, 0.42, 0.58, 0.74])
    assert [s.high for s in strata] == pytest.approx([0.26, 0.42, 0.58, 0.74, 0.9])
    assert all(s.low < s.loss.value - 0.01 < s.high for s in strata), "the loss is t and about 0.01"
    assert all(s.loss.low < s.loss.value < s.loss.high and s.loss.n == 20 for s in strata)
    assert np.mean([s.loss.value for s in strata]) == pytest.approx(evaluation["loss/heldout"].value)
    assert evaluation.to_json().keys() == {*evaluation, "meta"}
    assert Evaluation.from_json(evaluation.to_json()).strata == ()


def test_perfect_images_pass_everything_and_wrong_ones_nothing():
    right, wrong = evaluator()(painter(1.0)), evaluator()(painter(0.0))
    for key in (*(f"judge/{task}" for task in TASKS), "judge/overall", "compose/overall"):
        assert right[key].value == 1.0
        assert wrong[key].value == 0.0
    assert right["clip_score"].value > wrong["clip_score"].value + 20
    assert right["fd_clip"].value < 0.01


def test_overall_is_the_unweighted_mean_of_the_six_tasks():
    evaluation = evaluator()(painter(0.6))
    tasks = [evaluation[f"judge/{task}"].value for task in TASKS]
    assert evaluation["judge/overall"].value == pytest.approx(np.mean(tasks))
    assert evaluation["judge/overall"].n == 30
    assert evaluation["judge/counting"].n == 5


def test_batch_size_and_number_of_processes_change_nothing():
    whole = evaluator()(painter(0.6), loss_fn)
    small = evaluator(batch_size=7)(painter(0.6), loss_fn)
    several = evaluator()
    parts = [several.collect(painter(0.6), loss_fn, rank=rank, world=3) for rank in (2, 0, 1)]
    shared = several.summarise([pickle.loads(pickle.dumps(part)) for part in parts])
    for other in (small, shared):
        assert list(other) == list(whole)
        for key in whole:
            assert other[key].value == pytest.approx(whole[key].value, rel=1e-6, abs=1e-9), key
            assert other[key].low == pytest.approx(whole[key].low, rel=1e-5, abs=1e-8), key
        assert [e.prompt for e in other.examples] == [e.prompt for e in whole.examples]


def test_second_call_gives_the_same_evaluation():
    one = evaluator()
    first = one(painter(0.6), loss_fn)
    one(painter(0.1), loss_fn)
    assert one(painter(0.6), loss_fn).to_json() == first.to_json()


def test_rows_are_global_disjoint_and_complete():
    seen = []

    def recording(prompts, rows):
        seen.extend(zip(rows.tolist(), prompts, strict=True))
        return painter()(prompts, rows)

    one = evaluator(batch_size=5)
    one(recording)
    numbers = [row for row, _ in seen]
    assert sorted(numbers) == list(range(one.rows)) == list(range(30 * 3 + 12 * 3 + 40))
    texts = dict(seen)
    assert texts[one.offset("compose") + 3 * 5 + 2] == one.suites["compose"][5].text
    assert texts[one.offset("captions") + 7] == CAPTIONS[7]


def test_images_drawn_for_captions_are_not_compared_with_the_images_of_these_captions(monkeypatch):
    seen = []
    kernel = summary.kernel_interval
    monkeypatch.setattr(
        summary,
        "kernel_interval",
        lambda *given, **options: seen.append(options["paired"]) or kernel(*given, **options),
    )
    evaluator()(painter(0.7))
    evaluator(reference=Reference(painter(seed=9)(["a red square"] * 9, torch.arange(9))))(painter(0.7))
    assert seen == [True, False]


def test_without_a_judge_the_captions_are_prompts_and_judge_keys_are_absent():
    reference = evaluator().reference
    evaluation = Evaluator([], reference, MeanFeatures(), samples_per_prompt=2)(painter())
    assert list(evaluation) == ["fd_clip", "kid_clip", "clip_score", "diversity"]
    assert evaluation["diversity"].n == 40


def test_without_features_only_the_judge_speaks():
    evaluation = evaluator(features=None, heldout=None)(painter())
    assert all(key.startswith(("judge/", "compose/", "close_calls")) for key in evaluation)


def test_diversity_of_one_image_per_prompt_is_zero():
    def collapsed(prompts, rows):
        return painter()(prompts, torch.zeros_like(rows))

    assert evaluator()(collapsed)["diversity"].value == pytest.approx(0, abs=1e-6)
    assert evaluator()(painter(0.5))["diversity"].value > 0.01


def test_examples_hold_images_verdicts_and_what_the_judge_saw():
    evaluation = evaluator()(painter(0.5))
    own = [e for e in evaluation.examples if e.suite == "judge"]
    assert {e.task for e in own} == set(TASKS)
    assert len(own) == 6 * 3
    for example in own:
        assert len(example.images) == len(example.passed) == len(example.seen) == 3
        color = example.prompt.split()[-2]
        for passed, seen in zip(example.passed, example.seen, strict=True):
            assert (seen == f"a {color} square") == passed
    scores = [e.score for e in own if e.task == "counting"]
    assert scores == sorted(scores, reverse=True)
    everyone = evaluation.outcomes["judge"].values[10:15]
    assert scores[0] == everyone.max()
    assert scores[-1] == everyone.min()


def test_meta_names_what_the_numbers_depend_on():
    evaluation = evaluator()(painter(), meta={"sampler": "euler", "steps": 20})
    meta = evaluation.meta
    assert meta["sampler"] == "euler"
    assert meta["features_digest"] == "mean-0"
    assert meta["seed"] == 0
    assert set(meta["versions"]) >= {"torch", "numpy", "t2ilab"}
    other = evaluator(prompts=ColorWorld().prompts("test", 4, 0)).describe()
    assert meta["prompts_digest"] != other["prompts_digest"]


def test_evaluation_survives_its_json_file(tmp_path):
    evaluation = evaluator()(painter(0.6), loss_fn, meta={"weights": "ema"})
    read = Evaluation.load(evaluation.save(tmp_path / "run" / "evaluation.json"))
    assert read.metrics == evaluation.metrics
    assert read.to_json() == Evaluation.from_json(read.to_json()).to_json()
    assert read.meta["weights"] == "ema"
    assert np.allclose(read.outcomes["judge"].values, evaluation.outcomes["judge"].values, atol=1e-6)
    assert set(evaluation.to_json()["judge/overall"]) >= {"value", "low", "high", "n", "method"}
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["evaluation.json"]


def test_sample_fn_that_returns_floats_is_refused():
    with pytest.raises(ValueError, match=r"must return uint8 images \(63, 3, h, w\), got float32"):
        evaluator()(lambda prompts, rows: torch.zeros(len(rows), 3, 8, 8))


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Evaluator([])


def test_another_file_is_not_an_evaluation(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text('{"judge/overall": {"value": 1}}')
    with pytest.raises(ValueError, match="expected an evaluation of format 1"):
        Evaluation.load(path)
