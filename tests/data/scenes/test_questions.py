"""The answers about a caption are what the caption asks for, in any wording."""

import pytest

from t2ilab.data.scenes import captions, sample_scene
from t2ilab.data.scenes.questions import SLOTS, THING, WHOLE, answers


def told(rows):
    """The rows of the things that exist, as {attribute: class}, without what is left open."""
    named = [
        {name: classes[answer] for (name, classes), answer in zip(THING.items(), row, strict=True) if answer}
        for row in rows
    ]
    return [row for row in named if row]


def test_the_answers_of_a_relation_keep_the_order_of_the_text():
    things, _, whole = answers("a big red star below a heart on a navy background")
    assert told(things) == [
        {"number": 1, "shape": "star", "color": "red", "size": "large", "place": "below"},
        {"number": 1, "shape": "heart", "place": "above"},
    ]
    assert [classes[answer] for classes, answer in zip(WHOLE.values(), whole, strict=True)] == [
        "navy",
        None,
        2,
    ]
    assert len(things) == SLOTS


def test_equal_things_are_one_with_a_number():
    things, _, whole = answers("three pink rings in flat style")
    assert told(things) == [{"number": 3, "shape": "ring", "color": "pink"}]
    assert [classes[answer] for classes, answer in zip(WHOLE.values(), whole, strict=True)] == [
        None,
        "flat",
        3,
    ]


def test_a_belly_belongs_to_its_bear():
    things, _, _ = answers("a red teddy bear with a blue belly and a cross")
    assert told(things) == [
        {"number": 1, "shape": "teddy bear", "color": "red", "belly": "blue"},
        {"number": 1, "shape": "cross"},
    ]


def test_captions_that_mean_the_same_have_the_same_canonical_answers():
    for index in range(300):
        short, _, image, inverse = captions(sample_scene("foundation", "train", index, 0))
        assert answers(short)[1:] == answers(image)[1:] == answers(inverse)[1:]
    left, right = answers("a ring left of a star"), answers("a star right of a ring")
    assert left[0] != right[0] and left[1:] == right[1:]


def test_what_is_not_of_the_grammar_is_refused():
    with pytest.raises(ValueError, match="no caption of the synthetic data set"):
        answers("a photo of my cat")
