"""Scenes by number: pure, disjoint, held out, placed as the grammar says."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from t2ilab.data.scenes import check, requirement_of, sample_scene, split_of
from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.sampler import GENERAL_STYLES, KINDS
from t2ilab.data.scenes.score import truth
from t2ilab.data.scenes.world import (
    COLORS,
    EXTENT,
    GAP,
    HELD_OUT,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    SPLITS,
    TEDDY,
)

from .examiner import SUBSETS, is_subject, scenes


def test_a_scene_is_a_function_of_subset_split_seed_and_number():
    here = [sample_scene("general", "train", i, seed=3) for i in range(20)]
    again = [sample_scene("general", "train", i, seed=3) for i in reversed(range(20))][::-1]
    assert here == again
    assert here != [sample_scene("general", "train", i, seed=4) for i in range(20)]
    assert here[0] == eval(repr(here[0]), {**vars(__import__("t2ilab.data.scenes", fromlist=["*"]))})


def test_every_scene_belongs_to_the_split_it_was_drawn_for():
    for subset in SUBSETS:
        for split in SPLITS:
            assert {split_of(sample_scene(subset, split, i)) for i in range(100)} == {split}


def test_held_out_pairs_occur_in_every_scene_of_compose_and_in_no_other():
    def holds_one(scene):
        return any((item.color, item.shape) in HELD_OUT for item in scene.objects)

    assert all(holds_one(scene) for scene in scenes("general", 300, ("compose",)))
    assert not any(holds_one(scene) for subset in SUBSETS for scene in scenes(subset, 600))


def test_no_colour_and_no_shape_loses_more_than_one_pair():
    assert max(Counter(color for color, _ in HELD_OUT).values()) == 1
    assert max(Counter(shape for _, shape in HELD_OUT).values()) == 1
    seen = Counter((o.color, o.shape) for scene in scenes("general", 4000, ("train",)) for o in scene.objects)
    assert len(seen) == len(COLORS) * len(SHAPES) - len(HELD_OUT) and min(seen.values()) > 40


@pytest.mark.parametrize("subset", SUBSETS)
def test_objects_keep_their_distance_and_stay_inside(subset):
    for scene in scenes(subset, 500):
        for one, two in combinations(scene.objects, 2):
            free = np.hypot(one.x - two.x, one.y - two.y) - EXTENT * (one.radius + two.radius)
            assert free >= GAP - 0.1
        for item in scene.objects:
            assert min(item.x, item.y, SIDE - item.x, SIDE - item.y) >= EXTENT * item.radius + 1.4


def test_relations_are_true_and_clear():
    seen = Counter()
    for scene in scenes("general", 1000):
        if scene.relation:
            first, second = scene.objects
            right, down = first.x - second.x, first.y - second.y
            along = {"left of": -right, "right of": right, "above": -down, "below": down}[scene.relation]
            assert along >= 12 and along > abs(down if scene.relation.endswith("of") else right) + 8
            seen[scene.relation] += 1
    assert len(seen) == 4 and min(seen.values()) > 60


def test_the_mixture_of_general_has_the_stated_shares():
    truths = scenes("general", 3000)
    styles, count = Counter(scene.style for scene in truths), Counter(len(scene.objects) for scene in truths)
    for style, share in GENERAL_STYLES.items():
        assert styles[style] / 3000 == pytest.approx(share, abs=0.04)
    assert count[1] / 3000 == pytest.approx(KINDS["single"], abs=0.04)
    assert set(count) == {1, 2, 3, 4}
    assert not any(item.shape == TEDDY for scene in truths for item in scene.objects)


def test_the_subsets_hold_what_they_are_for():
    assert all(any(o.shape == TEDDY for o in scene.objects) for scene in scenes("teddy", 300))
    assert {scene.style for scene in scenes("curated", 300)} == {"shaded"}
    assert all(is_subject(scene.objects[0]) for scene in scenes("subject", 50))
    others = [
        item
        for subset in ("teddy", "class", "foundation")
        for scene in scenes(subset, 600)
        for item in scene.objects
    ]
    assert not any(is_subject(item) for item in others)
    shapes = {item.shape for scene in scenes("foundation", 300) for item in scene.objects}
    assert shapes == {*SHAPES, TEDDY}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "dogs"}, "data.subset"),
        ({"split": "dev"}, "data.split"),
        ({"subset": "teddy", "split": "compose"}, "compose"),
        ({"index": -1}, "index"),
        ({"subset": "foundation", "jitter": 1.0}, "leave out data.jitter=1"),
    ],
)
def test_a_wrong_question_is_answered_by_the_option_to_change(options, message):
    with pytest.raises(ValueError, match=message):
        sample_scene(**options)


def test_weighted_draws_have_their_frequencies():
    draws = Draws("test", 0, 0)
    seen = Counter(draws.weighted({"a": 1.0, "b": 3.0}) for _ in range(4000))
    assert seen["b"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_centres_lie_on_the_lattice_and_jitter_moves_them_off_it_within_its_reach():
    plain = scenes("general", 200, ("train",))
    assert {v for scene in plain for item in scene.objects for v in (item.x, item.y)} == set(PLACES)
    assert {item.radius for scene in plain for item in scene.objects} == set(SIZES.values())
    moved = [sample_scene("general", "train", i, jitter=2.0) for i in range(200)]
    off = [min(abs(v - place) for place in PLACES) for s in moved for o in s.objects for v in (o.x, o.y)]
    assert max(off) <= 2.0 and np.mean(off) > 0.6
    spread = [min(abs(o.radius - r) for r in SIZES.values()) for s in moved for o in s.objects]
    assert max(spread) <= 0.25 and np.mean(spread) > 0.05
    everywhere = [o.x % 8 for i in range(400) for o in sample_scene("foundation", "train", i).objects]
    assert np.histogram(everywhere, 4, (0, 8))[0].min() > 60


def test_jittered_scenes_keep_their_distance_and_their_relation():
    for i in range(300):
        scene = sample_scene("general", "train", i, jitter=4.0)
        for one, two in combinations(scene.objects, 2):
            assert np.hypot(one.x - two.x, one.y - two.y) >= EXTENT * (one.radius + two.radius) + GAP
        assert all(check(requirement_of(scene), truth(scene)).attributes.values())


@pytest.mark.parametrize("jitter", [-1.0, 4.5])
def test_a_jitter_beyond_half_a_place_is_refused(jitter):
    with pytest.raises(ValueError, match=r"data.jitter must lie in \[0, 4\]"):
        sample_scene(jitter=jitter)
