"""The evaluator with the real synthetic data set: true renders are perfect, renders of other prompts fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2ilab.data import scenes
from t2ilab.eval.gallery import describe
from t2ilab.eval.plan import EvaluationPlan
from t2ilab.eval.result import TASKS
from tests.eval.fakes import MeanFeatures
from tests.eval.test_plan import options


def renderer(suites, shift=0):
    """A sample_fn that renders what the prompt asks for, or the prompt `shift` further in its task."""
    scene_of = {}
    for prompts in suites.values():
        for task in TASKS:
            own = [prompt for prompt in prompts if prompt.task == task]
            for k, prompt in enumerate(own):
                scene_of[prompt.text] = own[(k + shift) % len(own)].requirement

    def sample_fn(texts, rows):
        images = [draw(scene_of[text], int(row)) for text, row in zip(texts, rows, strict=True)]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    return sample_fn


def draw(requirement, seed):
    """What a person would draw: two things beside or above each other, more of them in the corners."""
    near, far = 18.0, 46.0
    places = [(near, 32.0), (far, 32.0)]
    if requirement.relation in ("above", "below"):
        places = [(32.0, near), (32.0, far)]
    if requirement.relation in ("right of", "below"):
        places.reverse()
    if len(requirement.wants) > 2:
        places = [(near, near), (far, near), (near, far), (far, far)]
    color = str(np.random.default_rng(seed).choice(["red", "blue"]))
    objects = [
        scenes.Object(want.shape, want.color or color, x, y, 11.5 if want.size == "large" else 7.5)
        for want, (x, y) in zip(requirement.wants, places, strict=False)
    ]
    return scenes.render(scenes.Scene(tuple(objects), background=requirement.background or "white"))


@pytest.fixture(scope="module")
def plan():
    return EvaluationPlan(
        **{**options("quick"), "prompts_per_task": 6, "compose_per_task": 3, "samples_per_prompt": 2}
    )


def test_true_renders_are_perfect_and_swapped_ones_are_not(plan):
    evaluator = plan.evaluator(world=scenes, features=MeanFeatures())
    right = evaluator(renderer(evaluator.suites))
    for key in ("judge/overall", "compose/overall", *(f"judge/{task}" for task in TASKS)):
        assert right[key].value == 1.0, key
    assert evaluator(renderer(evaluator.suites, shift=1))["judge/overall"].value < 0.2


@pytest.mark.parametrize(
    ("down", "words"), [(True, "a red circle above a blue star on white"), (False, "left of")]
)
def test_judge_names_what_it_sees(down, words):
    x, y = (32.0, 46.0) if down else (46.0, 32.0)
    first = scenes.Object("circle", "red", 64 - x, 64 - y, 8.0)
    second = scenes.Object("star", "blue", x, y, 8.0)
    assert words in describe(scenes.judge(scenes.render(scenes.Scene((first, second)))))


def test_judge_counts_things_that_are_alike():
    objects = tuple(scenes.Object("ring", "red", x, 32.0, 7.5) for x in (12.0, 32.0, 52.0))
    assert describe(scenes.judge(scenes.render(scenes.Scene(objects)))) == "3 red rings on white"


def test_judge_names_the_size_of_a_thing_alone_and_says_when_there_is_nothing():
    alone = scenes.Scene((scenes.Object("heart", "pink", 32.0, 32.0, 11.5),), background="navy")
    seen = scenes.judge(scenes.render(alone))
    assert describe(seen) == "a large pink heart on navy"
    assert describe(replace(seen, objects=())) == "nothing on navy"
