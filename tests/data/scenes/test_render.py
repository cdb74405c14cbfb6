"""The renderer: known pixels, edges, light, grain, and independence of the batch."""

import numpy as np
import pytest

from t2ilab.data.scenes import Object, Scene, render, render_batch
from t2ilab.data.scenes.render import FADE, FADE_TO
from t2ilab.data.scenes.shapes import OUTLINES
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, EXTENT, SHAPES, TEDDY

from .examiner import scenes

RED_CIRCLE = Object("circle", "red", 32.0, 32.0, 10.0)


def test_a_red_circle_is_red_inside_and_white_outside():
    image = render(Scene((RED_CIRCLE,), "white"))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert tuple(image[32, 32]) == COLORS["red"] and tuple(image[3, 60]) == BACKGROUNDS["white"]


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_covered_area_of_a_disc_is_pi_r_squared_at_every_resolution(size):
    image = render(Scene((RED_CIRCLE,), "white"), size).astype(float)
    white, red = (np.array(c, dtype=float) for c in (BACKGROUNDS["white"], COLORS["red"]))
    cover = (image - white) @ (red - white) / ((red - white) @ (red - white))
    assert cover.sum() * (64 / size) ** 2 == pytest.approx(np.pi * 9.8**2, rel=0.01)


def test_pixels_on_an_edge_are_between_the_colours():
    image = render(Scene((Object("square", "blue", 32.0, 32.0, 10.0),), "black")).astype(int)
    # the edge lies at 32 + 8.4: pixel 40 (its centre at 40.5) is covered by 0.4
    expected = 0.4 * np.array(COLORS["blue"]) + 0.6 * np.array(BACKGROUNDS["black"])
    assert np.abs(image[32, 40] - expected).max() <= 1


def test_the_x_axis_points_right_and_the_y_axis_down():
    image = render(Scene((Object("circle", "red", 50.0, 10.0, 7.5),), "black"))
    assert image[10, 50, 0] > 200 and image[50, 10, 0] < 50


def test_a_triangle_and_a_heart_point_the_right_way():
    for shape, wide_row in (("triangle", 38), ("heart", 27)):
        image = render(Scene((Object(shape, "red", 32.0, 32.0, 11.0),), "black"))[..., 0] > 128
        assert image[wide_row].sum() > 2 * image[64 - wide_row].sum() - 8
        assert image[wide_row].sum() > image[64 - wide_row].sum()


def test_no_shape_reaches_beyond_its_extent():
    steps = np.linspace(-2, 2, 401, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    for name, outline in OUTLINES.items():
        inside = outline(x, y) < 0
        assert np.abs(x[inside]).max() <= EXTENT + 0.01 and np.abs(y[inside]).max() <= EXTENT + 0.01, name


def test_signed_distances_have_unit_slope_near_the_outline():
    steps = np.linspace(-1.5, 1.5, 1501, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    for name, outline in OUTLINES.items():
        distance = outline(x, y)
        slope = np.hypot(*np.gradient(distance, steps[1] - steps[0]))
        near = np.abs(distance) < 0.02
        assert np.median(slope[near]) == pytest.approx(1, abs=0.02), name


def test_light_comes_from_the_upper_left_and_shadows_fall_to_the_lower_right():
    flat, lit = (render(Scene((RED_CIRCLE,), "white", style)).astype(int) for style in ("flat", "shaded"))
    assert lit[25, 25, 0] > lit[38, 38, 0]
    assert lit[41, 41].sum() < flat[41, 41].sum() - 30 and lit[22, 22].sum() >= flat[22, 22].sum() - 3


def test_a_grainy_image_is_faded_and_noisy():
    noise = [render(Scene((RED_CIRCLE,), "white", "grainy", grain=g)) for g in (1, 1, 2)]
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])
    ground = noise[0][:12].astype(float)
    assert ground.mean() == pytest.approx(FADE * 250 + (1 - FADE) * FADE_TO, abs=1)
    assert 4 < ground[..., 0].std() < 8


def test_a_bear_wears_its_belly_inside():
    bear = Object(TEDDY, "purple", 32.0, 32.0, 12.0, "yellow")
    image = render(Scene((bear,), "white"))
    assert tuple(image[36, 32]) == COLORS["yellow"] and tuple(image[41, 37]) == COLORS["purple"]


def test_every_image_is_the_same_alone_and_in_any_batch():
    truths = [*scenes("general", 40), *scenes("teddy", 10)]
    together, backwards = render_batch(truths), render_batch(truths[::-1])[::-1]
    assert np.array_equal(together, backwards)
    assert all(np.array_equal(render(scene), image) for scene, image in zip(truths, together, strict=True))


def test_all_shapes_and_colours_give_different_images():
    looks = [(shape, color) for shape in (*SHAPES, TEDDY) for color in COLORS]
    images = render_batch([Scene((Object(s, c, 32.0, 32.0, 8.0),)) for s, c in looks])
    assert len({image.tobytes() for image in images}) == len(looks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Object("blob", "red", 1, 1, 1), "shape"),
        (lambda: Object("star", "mauve", 1, 1, 1), "color"),
        (lambda: Object("star", "red", 1, 1, 0), "radius"),
        (lambda: Object("star", "red", 1, 1, 1, "blue"), "belly"),
        (lambda: Scene((RED_CIRCLE,), "beige"), "background"),
        (lambda: Scene((RED_CIRCLE,), "white", "oily"), "style"),
        (lambda: Scene((RED_CIRCLE,), relation="inside"), "relation"),
        (lambda: render(Scene((RED_CIRCLE,)), 48), "resolution"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
