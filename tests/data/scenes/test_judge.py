"""The judge: right on true images of every subset, also spoilt ones, and not fooled by what is none."""

import numpy as np
import pytest
import torch

from t2ilab.data.scenes import Object, Scene, SceneSource, judge, judge_batch, render, render_batch
from t2ilab.data.scenes.shapes import OUTLINES
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, SHAPES, SIZES, STYLES, TEDDY

from .examiner import SUBSETS, blurred, judged, mistakes, noisy, scattered, scenes, share_wrong, smoothed

SPOILERS = {"noisy": noisy, "blurred": blurred, "smoothed": smoothed, "both": lambda p: noisy(blurred(p))}


def test_a_known_scene_is_seen_as_it_is():
    scene = Scene(
        (Object("heart", "pink", 20.0, 20.0, 7.5), Object("ring", "cyan", 42.0, 40.0, 11.5)), "navy", "shaded"
    )
    seen = judge(render(scene))
    assert (seen.background, seen.style, len(seen.objects)) == ("navy", "shaded", 2)
    heart, ring = sorted(seen.objects, key=lambda item: item.x)
    assert (heart.shape, heart.color, heart.size) == ("heart", "pink", "small")
    assert (ring.shape, ring.color, ring.size) == ("ring", "cyan", "large")
    assert (heart.x, heart.y, heart.radius) == pytest.approx((20.0, 20.0, 7.5), abs=0.4)
    assert (ring.x, ring.y, ring.radius) == pytest.approx((42.0, 40.0, 11.5), abs=0.4)


def test_every_shape_colour_background_style_and_size_is_told_apart():
    looks = [(s, c) for s in (*SHAPES, TEDDY) for c in COLORS]
    worlds = [(b, style, size) for b in BACKGROUNDS for style in STYLES for size in SIZES]
    truths = [
        Scene((Object(s, c, 31.3, 32.8, SIZES[size]),), b, style)
        for i, (s, c) in enumerate(looks)
        for b, style, size in worlds[i % 3 :: 3]
    ]
    assert share_wrong(truths) == 0


@pytest.mark.parametrize("subset", SUBSETS)
def test_hundreds_of_true_images_are_judged_without_a_mistake(subset):
    assert share_wrong([*scenes(subset, 120), *scattered(subset, 240)]) == 0


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_noise_blur_and_smoothing_leave_the_judgement_right(spoiler):
    truths = [scene for subset in SUBSETS for scene in scattered(subset, 80)]
    assert share_wrong(truths, spoil=SPOILERS[spoiler]) <= 0.01


@pytest.mark.parametrize("size", [32, 128, 256])
def test_other_resolutions_are_judged_alike(size):
    assert share_wrong(scattered("general", 60), size=size) == 0


def drawn_ring(hole, radius=13.0, side=64):
    """A red ring on white whose hole has this share of its radius, drawn with the renderer's soft edge."""
    steps = np.arange(side, dtype=np.float32) - 31.5
    x, y = np.meshgrid(steps / radius, steps / radius)
    distance = (np.abs(np.hypot(x, y) - (1 + hole) / 2) - (1 - hole) / 2) * radius
    cover = np.clip(0.5 - distance / 1.3, 0, 1)[..., None]
    image = cover * np.array(COLORS["red"]) + (1 - cover) * np.array(BACKGROUNDS["white"])
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("radius", [SIZES["small"], SIZES["large"]])
def test_a_ring_may_have_a_somewhat_larger_or_smaller_hole(radius):
    for hole in (0.42, 0.45, 0.52, 0.58, 0.62):
        (seen,) = judge(drawn_ring(hole, radius)).objects
        assert (seen.shape, seen.color) == ("ring", "red"), hole
        assert seen.radius == pytest.approx(radius, abs=0.6)


@pytest.mark.parametrize("hole", [0.15, 0.8])
def test_a_disc_with_a_pinhole_and_a_thin_hoop_are_no_rings(hole):
    (seen,) = judge(drawn_ring(hole)).objects
    assert seen.shape != "ring"


def test_a_verdict_that_hangs_on_a_threshold_is_marked_and_a_clear_one_is_not():
    assert not judge(drawn_ring(0.52)).close
    holes = np.linspace(0.3, 0.75, 91)
    shapes = [judge(drawn_ring(hole)).objects[0].shape for hole in holes]
    turns = [k for k in range(1, len(holes)) if shapes[k] != shapes[k - 1]]
    assert turns
    for k in turns:
        assert any(judge(drawn_ring(hole)).close for hole in (holes[k - 1], holes[k]))


def test_a_judgement_is_the_same_alone_in_any_batch_and_again():
    images = render_batch(scattered("general", 100))
    together = judge_batch(images)
    assert together == judge_batch(images)
    assert judge_batch(images[::-1])[::-1] == together
    assert [judge(image) for image in images[:20]] == together[:20]


def test_tensors_in_the_order_of_sources_are_understood():
    images = SceneSource("general", size=20).images(range(20))
    expected = judge_batch(images.permute(0, 2, 3, 1).numpy())
    assert judge_batch(images) == expected
    assert judge_batch(images.float() / 255) == expected


def test_an_image_or_batch_without_objects_is_judged_empty():
    blank = np.full((2, 64, 64, 3), 250, dtype=np.uint8)
    assert [(seen.objects, seen.background) for seen in judge_batch(blank)] == [((), "white")] * 2
    assert judge_batch(np.zeros((0, 64, 64, 3), dtype=np.uint8)) == []
    assert judge(np.zeros((64, 64, 3), dtype=np.uint8)).objects == ()


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 64, 64, 3)), np.zeros((1, 3, 64, 64), np.uint8), np.zeros((1, 64, 32, 3), np.uint8)],
)
def test_arrays_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match="judge wants"):
        judge_batch(images)


def turned(name, angle):
    sine, cosine = np.sin(angle), np.cos(angle)
    return lambda x, y: OUTLINES[name](cosine * x - sine * y, sine * x + cosine * y) < 0


def halves(left, right):
    return lambda x, y: np.where(x < 0, OUTLINES[left](x, y), OUTLINES[right](x, y)) < 0


NEAR_SHAPES = {
    "ellipse": lambda x, y: 1.35 * x**2 + y**2 / 1.35 < 1,
    "oblong": lambda x, y: (np.abs(x) < 0.95) & (np.abs(y) < 0.72),
    "square turned by 22 degrees": turned("square", np.pi / 8),
    "square on its corner": turned("square", np.pi / 4),
    "triangle upside down": turned("triangle", np.pi),
    "heart upside down": turned("heart", np.pi),
    "star upside down": turned("star", np.pi),
    "cross turned to an x": turned("cross", np.pi / 4),
    "diamond lying": turned("diamond", np.pi / 2),
    "half a disc": lambda x, y: (x**2 + y**2 < 1) & (y < 0),
    "disc with a mouth": lambda x, y: (x**2 + y**2 < 1) & (np.abs(np.arctan2(y, x)) > 0.6),
    "open ring": lambda x, y: (OUTLINES["ring"](x, y) < 0) & ~((np.abs(y) < 0.3) & (x > 0)),
    "thin ring": lambda x, y: np.abs(np.hypot(x, y) - 0.9) < 0.1,
    "thick cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) < 0.5) & (np.maximum(np.abs(x), np.abs(y)) < 1)
    ),
    "letter t": lambda x, y: (OUTLINES["cross"](x, y + 0.7) < 0) & (y > -1) & (y < 1),
    "two discs grown together": lambda x, y: (np.abs(x) - 0.6) ** 2 + y**2 < 0.6,
    "half star half circle": halves("star", "circle"),
    "half circle half diamond": halves("circle", "diamond"),
    "half heart half square": halves("heart", "square"),
}


def painted(inside, count=25):
    """Images of a region of the plane in many colours, places and sizes, anti-aliased by supersampling."""
    draws, images = np.random.default_rng(0), []
    for _ in range(count):
        radius, (x, y) = draws.uniform(7.5, 12), draws.uniform(18, 46, 2)
        steps = (np.arange(256, dtype=np.float32) + 0.5) / 4
        mask = inside(*np.meshgrid((steps - x) / radius, (steps - y) / radius))
        cover = mask.reshape(64, 4, 64, 4).mean((1, 3))[..., None]
        color = np.array(list(COLORS.values())[draws.integers(8)])
        ground = np.array(list(BACKGROUNDS.values())[draws.integers(5)])
        images.append(np.rint(cover * color + (1 - cover) * ground).astype(np.uint8))
    return np.stack(images)


@pytest.mark.parametrize("name", NEAR_SHAPES)
def test_what_is_nearly_a_shape_is_no_shape(name):
    for seen in judge_batch(painted(NEAR_SHAPES[name])):
        assert seen.objects and all(item.shape is None for item in seen.objects)


def test_random_blobs_are_hardly_ever_taken_for_a_shape():
    from scipy import ndimage

    draws = np.random.default_rng(0)

    def blob(x, y):
        waves = ndimage.gaussian_filter(draws.normal(size=x.shape), 14)
        return 0.5 * waves / waves.std() + 1.2 * (1 - np.hypot(x, y)) > 0

    seen = judge_batch(painted(blob, 150))
    assert np.mean([any(item.shape for item in one.objects) for one in seen]) <= 0.03


def test_an_object_too_small_or_too_large_for_the_world_is_no_shape():
    for radius in (3.5, 18.0):
        seen = judge(render(Scene((Object("circle", "red", 32.0, 32.0, radius),))))
        assert [item.shape for item in seen.objects] == [None]


def test_an_object_of_two_colours_is_not_clear():
    image = render(Scene((Object("circle", "red", 32.0, 32.0, 11.0),)))
    other = render(Scene((Object("circle", "blue", 32.0, 32.0, 11.0),)))
    image[:, 32:] = other[:, 32:]
    seen = judge(image)
    assert len(seen.objects) == 1 and None in (seen.objects[0].shape, seen.objects[0].color)


def test_a_colour_outside_the_palette_is_no_colour():
    image = render(Scene((Object("square", "red", 32.0, 32.0, 10.0),), "white"))
    image[(image == COLORS["red"]).all(-1)] = (90, 90, 60)
    assert [item.color for item in judge(image).objects] == [None]


@pytest.mark.parametrize("level", [30, 90, 150])
def test_a_dark_patch_away_from_all_objects_is_an_object_and_not_a_shadow(level):
    image = render(Scene((Object("star", "red", 20.0, 20.0, 11.0),)))
    image[45:55, 45:55] = level
    seen = judge(image)
    assert sorted(str(item.shape) for item in seen.objects) == ["None", "star"]


def test_two_objects_grown_together_are_no_shape():
    image = render(
        Scene((Object("circle", "red", 24.0, 32.0, 9.0), Object("square", "red", 38.0, 32.0, 9.0)))
    )
    assert all(item.shape is None for item in judge(image).objects)


def test_a_background_of_an_unknown_colour_has_no_name():
    image = render(Scene((Object("star", "red", 32.0, 32.0, 11.0),)))
    image[(image == 250).all(-1)] = (60, 160, 90)
    assert judge(image).background is None


def test_specks_of_noise_are_no_objects():
    image = render(Scene((Object("star", "red", 32.0, 32.0, 11.0),)))
    image[5:8, 5:8] = (0, 0, 255)
    assert len(judge(image).objects) == 1


def test_the_gloss_measures_the_light():
    circle = Object("circle", "green", 32.0, 32.0, 11.0)
    flat, lit = (judge(render(Scene((circle,), "grey", style))).gloss for style in ("flat", "shaded"))
    assert abs(flat) < 0.1 and lit > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("subset", [subset for subset in SUBSETS if subset != "foundation"])  # their mixture
def test_ten_thousand_true_images_of_every_subset_are_judged_right(subset):
    splits = (
        ("train", "val", "test", "compose") if subset in ("general", "curated") else ("train", "val", "test")
    )
    assert share_wrong(scattered(subset, 10_000, splits)) <= 0.001


@pytest.mark.slow
def test_thousands_of_spoilt_images_are_judged_right():
    truths = [scene for subset in SUBSETS for scene in scattered(subset, 600, seed=1)]
    for spoiler in SPOILERS.values():
        found = judged(truths, spoil=spoiler)
        wrong = [bool(mistakes(scene, seen)) for scene, seen in zip(truths, found, strict=True)]
        assert np.mean(wrong) <= 0.01


def test_float_images_are_rounded_as_a_viewer_would():
    image = torch.from_numpy(render(scattered("general", 1)[0])).permute(2, 0, 1) / 255
    assert judge(image) == judge((image * 255).round().to(torch.uint8))
