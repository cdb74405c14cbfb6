from collections import Counter

import pytest

from t2ilab.data.scenes import captions, render, score
from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.variants import CHANGES, VariantSource
from t2ilab.data.scenes.world import EXTENT, HELD_OUT, SIDE

from .examiner import is_subject

NUMBER = 800
SUBSETS = ("general", "curated", "teddy", "class", "foundation")


def pairs(subset, number=NUMBER):
    plain, near = SceneSource(subset, size=number), VariantSource(subset, size=number)
    return [(plain.scene(i), near.scene(i)) for i in range(number)]


def differing(one, other, name):
    """How many objects differ in an attribute."""
    return sum(getattr(a, name) != getattr(b, name) for a, b in zip(one.objects, other.objects, strict=True))


def respect(one, other):
    """The one respect in which two scenes differ; fails if there are several."""
    changed = {
        name for name in ("background", "style", "relation") if getattr(one, name) != getattr(other, name)
    }
    counts = {name: differing(one, other, name) for name in ("shape", "color", "radius")}
    moved = differing(one, other, "x") + differing(one, other, "y") > 0
    assert counts["radius"] == 0
    if "relation" in changed:
        assert changed == {"relation"} and moved and counts["shape"] == counts["color"] == 0
        first, second = one.objects[:2]
        assert [(o.x, o.y) for o in other.objects[:2]] == [(second.x, second.y), (first.x, first.y)]
        return "swap"
    assert not moved
    if counts["color"] == 2:
        assert not changed and counts["shape"] == 0
        assert [o.color for o in other.objects[:2]] == [o.color for o in one.objects[:2]][::-1]
        return "swap"
    found = changed | {name for name in ("shape", "color") if counts[name]}
    assert len(found) == 1 and counts["shape"] + counts["color"] <= 1, (one, other)
    return found.pop()


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_variant_differs_in_exactly_one_respect_and_its_long_caption_tells_it(subset):
    for one, other in pairs(subset, 300):
        respect(one, other)
        assert captions(one, ("long",)) != captions(other, ("long",))


def test_every_kind_of_change_occurs_about_as_often_as_stated():
    found = Counter(respect(one, other) for one, other in pairs("general"))
    assert set(found) == set(CHANGES)
    assert found["background"] / NUMBER > 0.07 and found["style"] / NUMBER > 0.07
    assert found["swap"] / NUMBER > 0.12  # half of the scenes have nothing to swap
    assert 0.8 < found["color"] / found["shape"] < 1.3


@pytest.mark.parametrize("subset", SUBSETS)
def test_no_variant_holds_a_pair_held_out_of_training_or_the_subject(subset):
    objects = [item for _, other in pairs(subset, 300) for item in other.objects]
    assert not [item for item in objects if (item.color, item.shape) in HELD_OUT or is_subject(item)]
    assert not [item for item in objects if item.belly == item.color]


def test_nothing_sticks_out_of_a_variant():
    for _, other in pairs("general"):
        for item in other.objects:
            edge = EXTENT * item.radius
            assert edge <= min(item.x, item.y) and max(item.x, item.y) <= SIDE - edge


def test_a_variant_passes_as_itself_and_fails_as_the_plain_scene():
    seen = [(one, other) for one, other in pairs("general", 40) if respect(one, other) != "style"]
    for one, other in seen:
        image = render(other)
        assert score(other, image).passed
        assert not score(one, image).passed, (one, other)


def test_a_variant_is_a_function_of_its_number_and_its_source_has_its_own_digest():
    source, again = VariantSource("general", size=20), VariantSource("general", size=50)
    assert [source.scene(i) for i in (7, 3)] == [again.scene(i) for i in (7, 3)]
    assert source.digest() != SceneSource("general", size=20).digest()
    assert VariantSource("general", size=20, seed=1).scene(3) != source.scene(3)


def test_near_misses_of_a_source_have_its_options_and_so_its_places():
    options = {"size": 40, "resolution": 32, "seed": 5, "jitter": 3.0}
    kinds = {"caption_kinds": ("short", "long"), "caption_weights": {"short": 1.0, "long": 2.0}}
    plain = SceneSource("general", "val", **options, **kinds)
    near = VariantSource.of(plain)
    assert vars(near) == vars(plain)
    for index in range(len(plain)):
        respect(plain.scene(index), near.scene(index))
