"""Measures of a personalisation: the mark, the context, and the features of images."""

from dataclasses import replace

import pytest
import torch

from t2ilab.data import scenes
from t2ilab.data.scenes.score import truth
from t2ilab.data.scenes.world import TEDDY, Object, Scene
from t2ilab.eval.evaluator import Evaluator
from t2ilab.eval.personal import VERDICTS, shows_context, shows_mark
from t2ilab.eval.plan import EvaluationPlan
from t2ilab.measuring.personal import Personal

SUBJECT = Object(TEDDY, "purple", 24, 32, 13, mark="sky")
STAR = Object("star", "blue", 48, 32, 9)
PLAN = EvaluationPlan(
    prompts_per_task=1,
    compose_per_task=0,
    samples_per_prompt=1,
    reference_images=0,
    caption_prompts=4,
    heldout_images=0,
    heldout_strata=1,
    nfe_steps=[],
    nfe_per_task=1,
    nfe_reference_steps=1,
)


def prompt(text):
    return scenes.Prompt(text, "single_object", scenes.parse(text))


@pytest.mark.parametrize(
    ("scene", "marked", "context"),
    [
        (Scene((SUBJECT, STAR)), True, True),
        (Scene((replace(SUBJECT, mark=None, color="red"), STAR)), False, True),
        (Scene((SUBJECT, replace(STAR, color="green"))), True, False),
        (Scene((SUBJECT,)), True, False),
        (Scene((STAR, replace(STAR, x=16))), False, False),
    ],
)
def test_the_mark_and_the_context_are_judged_apart(scene, marked, context):
    asked = prompt("a zwx teddy bear and a blue star")
    assert shows_mark(asked, truth(scene)) is marked
    assert shows_context(asked, truth(scene)) is context
    assert asked.passed(truth(scene)) is (marked and context)


def test_leak_is_the_share_of_other_bears_that_show_the_mark():
    shown = [Scene((SUBJECT,)), Scene((replace(SUBJECT, mark=None),))]
    images = torch.from_numpy(scenes.render_batch(shown)).permute(0, 3, 1, 2)
    suites = {"judge": [prompt("a red circle")] * 2, "teddy": [prompt("a purple teddy bear")] * 2}
    evaluator = Evaluator(suites, judge=scenes, samples_per_prompt=1, verdicts=VERDICTS)
    found = evaluator(lambda texts, rows: images)
    assert found["personal/leak"].value == 0.5 and found["personal/leak"].higher_is_better is False
    assert found["teddy/overall"].value == 1 and "personal/mark" not in found
    assert list(found.outcomes["personal/leak"].values) == [1, 0]


class Colours:
    """The mean colour of an image as its feature."""

    name = "colours"

    def images(self, images):
        return images.float().mean((2, 3))


def plain(*colors):
    return torch.tensor(colors, dtype=torch.uint8)[:, :, None, None].expand(-1, 3, 8, 8)


def test_similarity_and_diversity_are_cosines_of_features():
    red, green, blue = (200, 0, 0), (0, 100, 0), (0, 0, 50)
    drawn = plain(red, red, green, red, red, green, blue, blue)  # four of the subject, four of the class
    asked = []

    def generate(texts, *, seed, rows):
        asked.extend(zip(texts, rows, strict=True))
        return drawn

    personal = Personal(("a zwx dog", "a zwx dog outside"), "a dog", plain(red, green), None)
    found = personal.measure(generate, Colours(), PLAN, first_row=7).metrics
    assert found["personal/similarity"].value == pytest.approx(0.5)
    assert found["personal/class_similarity"].value == pytest.approx(0.25)
    assert found["personal/diversity"].value == pytest.approx(1 - 2 / 12)
    assert [text for text, _ in asked] == ["a zwx dog", "a zwx dog outside"] * 2 + ["a dog"] * 4
    assert [row for _, row in asked] == list(range(7, 15))
    assert personal.measure(generate, None, PLAN, first_row=0).metrics == {}
    same = Personal(("a zwx dog",), "a dog", plain(green), None)
    found = same.measure(lambda texts, **_: plain(*[green] * len(texts)), Colours(), PLAN, first_row=0)
    assert found.metrics["personal/similarity"].value == pytest.approx(1)
    assert found.metrics["personal/diversity"].value == pytest.approx(0)
