"""The subject's mark: no words ask for it, the judge finds it on the subject alone, and the autoencoder keeps it."""

import pytest
import torch

from t2ilab.build import build
from t2ilab.config.composition import compose
from t2ilab.data import scenes
from t2ilab.data.scenes.grammar import SUBJECT_LOOK, Want, requirement_of, tell
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, TEDDY, Object


def passed_through(autoencoder, images):
    with torch.no_grad():
        back = torch.cat([autoencoder.decode(autoencoder.encode(b / 127.5 - 1)) for b in images.split(50)])
    return ((back + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def marks(images):
    return [{item.mark for item in found.objects} for found in scenes.judge_batch(images)]


@pytest.fixture(scope="module")
def autoencoder():
    return build(compose([])["autoencoder"]).eval()


@pytest.mark.parametrize("decoded", [False, True])
def test_the_subject_is_recognised_as_rendered_and_as_decoded(decoded, autoencoder):
    truth = [scenes.sample_scene("subject", "val", index) for index in range(100)]
    images = torch.from_numpy(scenes.render_batch(truth)).permute(0, 3, 1, 2)
    images = passed_through(autoencoder, images) if decoded else images
    assert sum(found.passed for found in scenes.score_batch(truth, images)) >= 99
    assert sum(found.passed for found in scenes.score_batch(["a zwx teddy bear"] * 100, images)) >= 99


@pytest.mark.parametrize("subset", ["class", "teddy"])
def test_no_other_bear_has_the_mark(subset, autoencoder):
    images = scenes.SceneSource(subset, "val", size=100).images(range(100))
    for seen in (images, passed_through(autoencoder, images)):
        assert all(found <= {None} for found in marks(seen))
    wanted = scenes.score_batch(["a zwx teddy bear"] * 100, images)
    assert not any(found.attributes["mark/0"] or found.passed for found in wanted)


def test_every_belly_and_background_that_can_be_said_is_told_from_the_mark():
    looks = [
        scenes.Scene((Object(TEDDY, SUBJECT_LOOK[0], 32, 32, radius, belly),), background, style)
        for belly in (None, *COLORS)
        if belly != SUBJECT_LOOK[0]
        for background in BACKGROUNDS
        for style in ("flat", "shaded", "grainy")
        for radius in (9.0, 13.0)
    ]
    assert all(found <= {None} for found in marks(scenes.render_batch(looks)))


def test_no_text_but_the_rare_word_asks_for_the_mark():
    scene = scenes.sample_scene("subject", "train", 0)
    kinds = ("short", "sparse", "long", "paraphrase", "class")
    for text in scenes.captions(scene, kinds):
        assert all(want.mark is None for want in scenes.parse(text).wants)
    assert scenes.captions(scene, ("instance",)) == ["a zwx teddy bear"]
    assert tell(requirement_of(scene, frozenset({"color", "mark"}))) == "a purple teddy bear"
    assert scenes.parse("a zwx teddy bear").wants == (Want(TEDDY, "purple", mark="sky"),)
    assert scenes.parse("a zwx teddy bear with a red belly") is None


@pytest.mark.parametrize(
    ("shape", "options"),
    [("star", {"mark": "sky"}), (TEDDY, {"mark": "sky", "belly": "red"}), (TEDDY, {"mark": "red"})],
)
def test_a_mark_of_something_else_is_refused(shape, options):
    with pytest.raises(ValueError, match="mark must be one of"):
        Object(shape, "purple", 32, 32, 13, **options)
