"""The grammar: what is told can be read back, and what is not of the grammar is refused."""

from collections import Counter

import pytest

from t2ilab.data.scenes import (
    Object,
    Requirement,
    Scene,
    Want,
    captions,
    parse,
    requirement_of,
    tell,
    vocabulary,
)
from t2ilab.data.scenes.grammar import EVERYTHING, INVERSE, KINDS, SPARSE, Wording
from t2ilab.data.scenes.score import check, truth
from t2ilab.data.scenes.world import TEDDY

from .examiner import SUBSETS, scenes

PAIR = Scene(
    (Object("circle", "red", 32.0, 15.0, 7.5), Object("star", "blue", 30.0, 45.0, 11.5)),
    "cream",
    "shaded",
    "above",
)


def test_the_captions_of_a_known_scene_are_these():
    assert captions(PAIR) == [
        "a red circle above a blue star",
        "a small red circle above a large blue star on a cream background in shaded style",
        "a picture of a red circle above a blue star",
        "a blue star under a red circle",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a star", Requirement((Want("star"),))),
        ("two orange hearts", Requirement((Want("heart", "orange"),) * 2)),
        ("an orange cross", Requirement((Want("cross", "orange"),))),
        ("three crosses", Requirement((Want("cross"),) * 3)),
        ("a red circle and a blue star", Requirement((Want("circle", "red"), Want("star", "blue")))),
        (
            "A red circle to the left of a star.",
            Requirement((Want("circle", "red"), Want("star")), "left of"),
        ),
        ("a ring below a cross", Requirement((Want("ring"), Want("cross")), "below")),
        ("a big ring on a navy background", Requirement((Want("ring", size="large"),), background="navy")),
        ("a ring in grainy style", Requirement((Want("ring"),), style="grainy")),
        ("a ring, a star and a heart", Requirement((Want("ring"), Want("star"), Want("heart")))),
        ("there are two stars and a ring", Requirement((Want("star"), Want("star"), Want("ring")))),
        ("a pink teddy bear with a cyan belly", Requirement((Want(TEDDY, "pink", belly="cyan"),))),
        ("a zwx teddy bear", Requirement((Want(TEDDY, "purple", mark="sky"),))),
    ],
)
def test_a_prompt_is_read_as_its_requirement(text, wanted):
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "red circle",
        "a circles",
        "two circle",
        "five circles",
        "a circle above",
        "a red blue circle",
        "three stars and two rings",
        "two stars above a ring",
        "a star above a ring below a cross",
        "a star with a red belly",
        "a zwx star",
        "a star on a red background",
    ],
)
def test_a_text_outside_the_grammar_is_none(text):
    assert parse(text) is None


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_caption_parses_back_to_what_is_true_of_its_scene(subset):
    for scene in scenes(subset, 300):
        texts, short = captions(scene), requirement_of(scene).canonical()
        truths = [short, requirement_of(scene, EVERYTHING - {"mark"}).canonical(), short, short]
        assert [parse(text).canonical() for text in texts] == truths


@pytest.mark.parametrize("relation", list(INVERSE))
def test_the_other_end_of_a_relation_means_the_same(relation):
    wanted = Requirement((Want("ring", "red"), Want("star", "blue")), relation)
    other = parse(tell(wanted, Wording(inverse=True)))
    assert other != wanted and other.relation == INVERSE[relation]
    assert other.canonical() == wanted.canonical()
    assert other.canonical() != parse(tell(wanted).replace(relation, INVERSE[relation])).canonical()


def test_the_vocabulary_is_small_and_holds_every_word():
    words = set(vocabulary())
    assert len(words) <= 120
    for subset in SUBSETS:
        for scene in scenes(subset, 200):
            for text in captions(scene, KINDS):
                assert text == text.lower() and set(text.split()) <= words, text


def test_sparse_captions_say_little_and_only_what_is_true():
    said, possible = Counter(), Counter()
    for scene in scenes("general", 1500):
        for text in captions(scene, ("sparse",)):
            wanted = parse(text)
            assert check(wanted, truth(scene)).passed, text
            shapes = {want.shape for want in wanted.wants}
            colored = wanted.wants[0].color is not None
            assert colored or wanted.relation is None or len(shapes) == 2, text
            if len(scene.objects) > 1 and len(shapes) == 1:
                continue  # whose colours also stand where the relation does
            said.update({"color": colored, "relation": wanted.relation is not None})
            said.update(
                {"size": wanted.wants[0].size is not None, "background": wanted.background is not None}
            )
            possible.update({"color": 1, "relation": scene.relation is not None, "size": 1, "background": 1})
    for name, eighths in SPARSE.items():
        share, std = eighths / 8, (eighths * (8 - eighths) / 64 / possible[name]) ** 0.5
        assert possible[name] > 1000 and abs(said[name] / possible[name] - share) < 4 * std, name


def test_the_sparse_captions_of_a_scene_differ():
    texts = [captions(scene, ("sparse",)) for scene in scenes("general", 200)]
    assert all(len(four) == 4 for four in texts)
    assert sum(len(set(four)) > 1 for four in texts) > 150


def test_an_unknown_kind_of_caption_is_refused():
    with pytest.raises(ValueError, match="caption_kinds"):
        captions(PAIR, ("poem",))
