"""The sentence at the top of a report and the ways to fail, from numbers that a test makes up."""

import re

import numpy as np
import pytest

from t2ilab.data import scenes
from t2ilab.eval.answer import answer, failures
from t2ilab.eval.report import render
from t2ilab.eval.report_content import Final, ReportContent
from t2ilab.eval.result import Evaluation, Metric


def share(value, n=12):
    return Metric(
        value, max(0.0, value - 0.2), min(1.0, value + 0.2), n, "bootstrap over prompts", "share", True
    )


def evaluation(**tasks):
    metrics = {"judge/overall": share(sum(tasks.values()) / len(tasks), 72)}
    return {**metrics, **{f"judge/{task}": share(value) for task, value in tasks.items()}}


def test_the_sentence_groups_tasks_by_how_often_they_are_right_and_names_the_common_failure():
    meta = {
        "failures": {
            "single_object": {},
            "two_objects": {"an object is missing": 5, "wrong shape": 1},
            "counting": {"too many objects": 1, "an object is missing": 3},
        }
    }
    found = Evaluation(evaluation(single_object=1.0, colors=0.95, two_objects=0.5, counting=0.3), meta)
    assert answer(found) == (
        "68.8 % of the prompts come out right: single objects and colours are solved; two objects are right about "
        "half of the time; counting is wrong most of the time; most often an object is missing."
    )
    assert [row[0] for row in failures(found)] == ["two_objects", "counting", "single_object"], "worst first"


def test_no_way_to_fail_is_named_where_none_stands_out():
    meta = {"failures": {"colors": {"a": 1, "b": 1, "c": 1, "d": 1}}}
    assert "most often" not in answer(Evaluation(evaluation(colors=0.2), meta))


def test_a_model_that_has_learned_nothing_is_told_in_few_words():
    found = Evaluation(evaluation(colors=0.0, counting=0.0))
    assert answer(found) == "0.0 % of the prompts come out right: no task is learned yet."


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (
            2.5,
            "It has learned its training images by heart: the loss is 0.500 on training images, 2.50 on others.",
        ),
        (0.9, "It knows its training images better than others: the loss is 0.500 on"),
        (0.55, "No sign that it has learned its training images by heart: the loss is 0.500 on"),
    ],
)
def test_without_a_judge_the_losses_say_what_was_learned_by_heart(held_out, said):
    def loss(value):
        return Metric(value, value - 0.1, value + 0.1, 8, "bootstrap")

    found = answer(Evaluation({"loss/heldout": loss(held_out), "loss/train": loss(0.5)}))
    assert found.startswith(said)


def test_images_that_nobody_judges_get_no_sentence():
    assert answer(Evaluation({"loss/heldout": Metric(1.0, None, None, 3, "mean")})) == ""


@pytest.mark.parametrize(
    ("asked", "shown", "words"),
    [
        ("a red circle above a blue star", "a red circle", "an object is missing"),
        ("a red circle", "a red circle above a blue star", "too many objects"),
        ("a red circle", "a blue circle", "wrong colour"),
        ("a red circle", "a red star", "wrong shape"),
        ("a red circle above a blue star", "a blue star above a red circle", "wrong place"),
        ("a red circle", "a red circle", ""),
    ],
)
def test_a_failure_is_told_by_what_the_judge_sees(asked, shown, words):
    wanted = scenes.parse(shown)
    places = {"above": ((32.0, 16.0), (32.0, 48.0))}.get(wanted.relation, ((32.0, 32.0),))
    objects = tuple(
        scenes.Object(want.shape, want.color, x, y, 11.0)
        for want, (x, y) in zip(wanted.wants, places, strict=True)
    )
    from t2ilab.data.scenes.score import truth

    assert scenes.failure(asked, truth(scenes.Scene(objects))) == words


def test_an_image_with_nothing_in_it_is_named_so():
    assert (
        scenes.failure("a red circle", scenes.judge(np.full((64, 64, 3), 128, np.uint8)))
        == "nothing recognisable"
    )


def page(**more):
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    final = [Final("a red circle", image, True), Final("two stars", image, False), Final("a cat", image)]
    return render(ReportContent(title="t", final=final, **more))


def test_the_report_begins_with_the_images_each_marked_right_or_wrong():
    html = page(
        evaluation=Evaluation(evaluation(colors=0.95)), marks={"real images": share(1.0)}, facts={"a": 1}
    )
    head = html[: html.index("</header>")]
    assert re.findall("right</span>|wrong</span>", head) == ["right</span>", "wrong</span>"]
    places = [head.index(text) for text in ('class="final"', "come out right", "real images", "<nav")]
    assert places == sorted(places), "images, the sentence, the scale, and only then where to go on"
    assert html.index('id="what"') > html.index("</header>")


def test_a_run_that_is_not_at_its_end_says_how_far_it_is():
    html = page(unfinished="This run is at step 500 of 2,000.")
    assert "step 500 of 2,000" in html and "was not measured" not in html


def test_the_whole_config_is_folded_at_the_end():
    html = page(config={"seed": 7, "model": {"depth": 4}})
    assert re.search(
        r"<details><summary>The whole config[^<]*</summary><pre>seed: 7\nmodel:\n  depth: 4", html
    )


def colours(css):
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", css))


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(*pair):
    low, high = sorted(map(luminance, pair))
    return (high + 0.05) / (low + 0.05)


def sheet(mode):
    from importlib.resources import files

    css = files("t2ilab.eval").joinpath("templates/report.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    return css, colours(light) | (colours(dark[: dark.index("}\n}")]) if mode == "dark" else {})


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_intervals_stand_out_from_the_ground(mode):
    css, known = sheet(mode)
    for opacity in re.findall(r"\.(?:track \.span|key \.span|whisker) \{[^}]*opacity: ([\d.]+)", css):
        pairs = [[int(known[name][k : k + 2], 16) for name in ("c1", "paper")] for k in (1, 3, 5)]
        mixed = [round(float(opacity) * ink + (1 - float(opacity)) * ground) for ink, ground in pairs]
        assert contrast("#" + bytes(mixed).hex(), known["paper"]) >= 2


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_reaches_a_contrast_of_four_and_a_half_on_every_ground(mode):
    _, known = sheet(mode)
    inks = [
        "ink",
        "soft",
        "faint",
        "good",
        "bad",
        "before",
        *(f"c{k}" for k in range(1, 7)),
        *(f"r{k}" for k in range(1, 5)),
    ]
    for ground in ("paper", "panel", "code"):
        for ink in inks:
            assert contrast(known[ground], known[ink]) >= 4.5, (mode, ink, ground)
