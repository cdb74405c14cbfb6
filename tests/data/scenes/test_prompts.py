"""The prompts of evaluation: six tasks, of the grammar, satisfiable, and apart from training in `compose`."""

from collections import Counter

import pytest

from t2ilab.data.scenes import TASKS, parse, prompts, sample_scene
from t2ilab.data.scenes.score import check, truth
from t2ilab.data.scenes.world import HELD_OUT, TEDDY


def held_out(wanted):
    return [(want.color, want.shape) in HELD_OUT for want in wanted.wants]


@pytest.mark.parametrize("split", ["train", "val", "test", "compose", "teddy"])
def test_every_task_has_its_prompts_and_every_text_reads_back(split):
    found = prompts(split, 40)
    assert Counter(prompt.task for prompt in found) == dict.fromkeys(TASKS, 40)
    assert all(parse(prompt.text).canonical() == prompt.requirement.canonical() for prompt in found)


def test_texts_of_the_test_split_do_not_repeat():
    texts = [prompt.text for prompt in prompts("test", 50)]
    assert len(set(texts)) == len(texts)


def test_prompts_are_a_function_of_split_number_and_seed():
    assert prompts("val", 10) == prompts("val", 10)
    assert prompts("val", 10) != prompts("val", 10, seed=1)
    assert prompts("val", 10) != prompts("test", 10)
    assert [p.text for p in prompts("val", 5) if p.task == "counting"] == [
        p.text for p in prompts("val", 9) if p.task == "counting"
    ][:5]


def test_only_compose_asks_for_held_out_pairs_and_always_does():
    assert all(any(held_out(prompt.requirement)) for prompt in prompts("compose", 50))
    assert not any(any(held_out(prompt.requirement)) for prompt in prompts("test", 50))


def test_each_task_asks_for_what_its_name_says():
    by_task = {task: [p.requirement for p in prompts("test", 50) if p.task == task] for task in TASKS}
    assert all(len(r.wants) == 1 and r.wants[0].color is None for r in by_task["single_object"])
    assert all(len({w.shape for w in r.wants}) == 2 for r in by_task["two_objects"])
    assert {len(r.wants) for r in by_task["counting"]} == {2, 3, 4}
    assert all(len(set(r.wants)) == 1 for r in by_task["counting"])
    assert all(len(r.wants) == 1 and r.wants[0].color for r in by_task["colors"])
    assert {r.relation for r in by_task["position"]} == {"left of", "right of", "above", "below"}
    assert {bool(r.wants[0].color) for r in by_task["position"]} == {True, False}
    assert all(len({w.color for w in r.wants}) == 2 for r in by_task["color_attribution"])


def test_scenes_of_the_world_satisfy_the_prompts():
    truths = [truth(sample_scene("general", "train", i)) for i in range(1500)]
    satisfied = Counter(p.task for p in prompts("test", 10) if any(p.passed(seen) for seen in truths))
    assert set(satisfied) == set(TASKS) and min(satisfied.values()) >= 2


def test_bears_come_first_in_teddy_and_the_subject_under_its_rare_word():
    assert all(p.requirement.wants[0].shape == TEDDY for p in prompts("teddy", 20))
    subject = prompts("subject", 20)
    assert all("zwx teddy bear" in p.text for p in subject)
    assert {p.task for p in subject} == {"single_object", "two_objects", "position", "color_attribution"}
    described = [p.text for p in prompts("described", 20)]
    assert described == [p.text.replace("zwx", "purple") for p in subject]


def test_a_prompt_passes_its_own_truth_and_not_another():
    scene = sample_scene("general", "train", 0)
    prompt = prompts("test", 1)[0]
    assert prompt.passed(truth(scene)) == check(prompt.requirement, truth(scene)).passed


@pytest.mark.parametrize(("options", "message"), [({"split": "dev"}, "split"), ({"per_task": 0}, "per_task")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prompts(**options)
