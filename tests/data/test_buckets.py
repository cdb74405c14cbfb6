"""Shapes, the assignment to them, and batches of one shape."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from t2ilab.data.buckets import BucketOrder, Buckets, nearest
from t2ilab.data.folder import FolderSource
from t2ilab.data.order import EpochOrder, MicroBatches
from t2ilab.data.sets import Folder

SETTINGS = [(64, 16, 2.0), (256, 16, 2.0), (256, 64, 4.0), (512, 64, 2.5), (1024, 64, 4.0), (96, 32, 1.0)]


def buckets(multiple=16, max_aspect=2.0, least=1):
    return Buckets(multiple=multiple, max_aspect=max_aspect, least=least)


@pytest.mark.parametrize(("resolution", "multiple", "max_aspect"), SETTINGS)
def test_shapes_are_closed_under_transposition_divisible_and_within_the_budget(
    resolution, multiple, max_aspect
):
    shapes = buckets(multiple, max_aspect).shapes(resolution)
    assert shapes[0] == (resolution, resolution)
    assert len(set(shapes)) == len(shapes)
    assert {(w, h) for h, w in shapes} == set(shapes)
    for h, w in shapes:
        assert h % multiple == w % multiple == 0
        assert h * w <= resolution**2
        assert max(h, w) <= max_aspect * min(h, w)
        for larger in ((h + multiple) * w, h * (w + multiple)):
            assert larger > resolution**2, "a larger image would have fitted"


def test_the_shapes_of_64_pixels_are_these():
    assert buckets().shapes(64) == [(64, 64), (48, 80), (80, 48)]
    assert buckets(max_aspect=1.0).shapes(64) == [(64, 64)]
    wide = [(h, w) for h, w in buckets(max_aspect=4.0).shapes(64) if w >= h]
    assert wide == [(64, 64), (48, 80), (32, 128)]


@pytest.mark.parametrize(("resolution", "multiple", "max_aspect"), SETTINGS)
def test_the_nearest_shape_depends_on_the_proportions_only_and_turns_with_the_image(
    resolution, multiple, max_aspect
):
    shapes = buckets(multiple, max_aspect).shapes(resolution)
    random = np.random.default_rng(0)
    h, w = random.integers(20, 2000, (2, 500))
    chosen = [shapes[place] for place in nearest(shapes, h, w)]
    assert [shapes[place] for place in nearest(shapes, 3 * h, 3 * w)] == chosen
    assert [shapes[place] for place in nearest(shapes, w, h)] == [(b, a) for a, b in chosen]
    own = np.array(shapes)
    assert nearest(shapes, own[:, 0], own[:, 1]).tolist() == list(range(len(shapes)))


def test_the_distance_is_that_of_logarithms():
    """2.2 / 1.6 < 1.6 / 1.1, though 2.2 - 1.6 > 1.6 - 1.1."""
    shapes = [(100, 110), (100, 220)]
    assert nearest(shapes, np.array([100]), np.array([160])).tolist() == [1]


def test_between_two_shapes_the_squarer_one_wins_whichever_way_the_image_lies():
    shapes = buckets(max_aspect=4.0).shapes(64)
    middle = 80 / 48
    h, w = np.array([1.0, np.sqrt(middle)]), np.array([np.sqrt(middle), 1.0])
    assert [shapes[place] for place in nearest(shapes, h, w)] == [(64, 64), (64, 64)]


@pytest.mark.parametrize("sizes", [(64, 40, 7), (16, 16), (5, 3, 2, 1), (100,)])
def test_every_index_comes_once_in_each_epoch_of_its_bucket(sizes):
    order = BucketOrder(sizes, 8, seed=3)
    steps = order.batches_before(24)
    visits = Counter()
    for step in range(steps):
        epochs, indices = order.arrays(step)
        assert len(indices) == 8
        visits.update(zip(epochs.tolist(), indices.tolist(), strict=True))
    assert max(visits.values()) == 1
    first = 0
    for size in sizes:
        whole = (24 * size // 8) * 8 // size  # epochs of this bucket that are complete
        for epoch in range(whole):
            assert all((epoch, index) in visits for index in range(first, first + size))
        assert sum(first <= index < first + size for _, index in visits) == 24 * size // 8 * 8
        first += size


@pytest.mark.parametrize("sizes", [(64, 40, 7), (5, 3, 2, 1)])
def test_a_batch_is_of_one_bucket_whatever_the_number_of_processes(sizes):
    order, ends = BucketOrder(sizes, 8, seed=1), np.cumsum(sizes)
    for step in range(30):
        epochs, indices = order.arrays(step)
        whole = list(zip(epochs.tolist(), indices.tolist(), strict=True))
        assert len(set(np.searchsorted(ends, indices, side="right").tolist())) == 1
        for world, accumulate in ((2, 1), (2, 2), (4, 1)):
            rows = {}
            for rank in range(world):
                for part in MicroBatches(order, world, rank, accumulate, step, step + 1):
                    visits = zip(part.epochs.tolist(), part.indices.tolist(), strict=True)
                    rows |= dict(zip(part.rows.tolist(), visits, strict=True))
            assert [rows[row] for row in range(8)] == whole


def test_batches_of_all_buckets_are_mixed_and_no_two_epochs_are_alike():
    order = BucketOrder((160, 80), 8, seed=0)

    def kinds(epoch):
        steps = range(order.batches_before(epoch), order.batches_before(epoch + 1))
        return [int(order.arrays(step)[1][0] >= 160) for step in steps]

    orders = [kinds(epoch) for epoch in range(4)]
    assert all(sum(found) == 10 and len(found) == 30 for found in orders)
    assert len({tuple(found) for found in orders}) == 4
    assert all(0 < sum(found[:15]) < 10 for found in orders), "not one bucket after the other"


def test_one_bucket_is_the_plain_order():
    order, plain = BucketOrder((21,), 8, seed=5), EpochOrder(21, 8, seed=5)
    for step in (0, 1, 2, 7, 40):
        assert [part.tolist() for part in order.arrays(step)] == [
            part.tolist() for part in plain.arrays(step)
        ]


def test_the_order_is_a_pure_function_of_seed_and_step():
    order = BucketOrder((30, 11), 4, seed=7)
    backwards = {step: order.arrays(step)[1].tolist() for step in reversed(range(40))}
    assert {
        step: BucketOrder((30, 11), 4, seed=7).arrays(step)[1].tolist() for step in range(40)
    } == backwards
    assert backwards != {
        step: BucketOrder((30, 11), 4, seed=8).arrays(step)[1].tolist() for step in range(40)
    }


def halves(path, size):
    """Left half red, right half blue; or upper and lower half, in a tall image."""
    image = Image.new("RGB", size, "red")
    box = (size[0] // 2, 0, *size) if size[0] >= size[1] else (0, size[1] // 2, *size)
    image.paste("blue", box)
    image.save(path)
    path.with_suffix(".txt").write_text(f"{size[0]} by {size[1]}")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        halves(folder / f"wide{number}.png", (170 + number, 100))
        halves(folder / f"square{number}.png", (90, 90 + number))
    for number in range(2):
        halves(folder / f"tall{number}.png", (60, 100))
    return folder


def split(path, least=1):
    return buckets(least=least).split(FolderSource(str(path), 64, val_share=0.0))


def folder(path, **options):
    usual = {"caption_column": None, "min_size": None, "batch_size": 4, "workers": 0, "val_share": 0.2}
    return Folder(path=str(path), resolution=64, **usual | options)


def test_images_keep_the_shape_that_is_near_theirs_and_their_captions(photos):
    sources = split(photos)
    assert [(s.height, s.width, len(s)) for s in sources] == [(80, 48, 2), (64, 64, 6), (48, 80, 6)]
    for source in sources:
        images = source.images(range(len(source)))
        assert images.shape == (len(source), 3, source.height, source.width)
        for index, image in enumerate(images):
            width, height = map(int, source.captions(index)[0].split(" by "))
            assert image[:, 2, 2].tolist() == [255, 0, 0] and image[:, -3, -3].tolist() == [0, 0, 255]
            red = (image[0] > 127).float()
            across = red.mean(0) if width >= height else red.mean(1)
            assert abs(float(across.mean()) - 0.5) < 0.02, "the middle is not the middle"


def test_a_bucket_of_few_images_gives_them_to_the_others(photos):
    assert [len(source) for source in split(photos, least=3)] == [8, 6]
    assert [len(source) for source in split(photos, least=100)] == [14]


def test_a_folder_trains_in_shapes_and_validates_in_squares(photos):
    data = folder(photos, buckets=buckets())
    assert data.order(3) == BucketOrder(tuple(map(len, data.sources())), 4, 3)
    assert data.order(3).num_rows == len(data.train)
    assert data.val.images([0]).shape == (1, 3, 64, 64)
    assert data.summary().endswith(f"{len(data.train)} images at 64 px in {len(data.sources())} shapes")
    plain = folder(photos)
    assert plain.sources() == [plain.train] and plain.order(3) == EpochOrder(len(plain.train), 4, 3)
    assert plain.report().buckets == {} and plain.summary().endswith("images at 64 px")


def test_the_report_says_how_many_images_have_which_shape(photos):
    data = folder(photos, buckets=buckets())
    counts = {f"{source.height} x {source.width}": len(source) for source in data.sources()}
    assert data.report().buckets == counts and sum(counts.values()) == len(data.train)
    said = ", ".join(f"{shape}: {number}" for shape, number in counts.items())
    assert f"\n  height x width: {said}" in data.report().text()
    assert json.loads(json.dumps(data.report().to_dict()))["buckets"] == counts


def test_the_digest_knows_the_shapes_and_the_members(photos):
    digests = {folder(photos, buckets=buckets(least=least)).digest() for least in (1, 3, 100)}
    assert len(digests | {folder(photos).digest()}) == 4
    assert folder(photos, buckets=buckets()).digest() in digests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple": 0}, "data.buckets.multiple"),
        ({"least": 0}, "data.buckets.least"),
        ({"max_aspect": 0.5}, "data.buckets.max_aspect must be at least 1, got 0.5"),
    ],
)
def test_impossible_buckets_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        buckets(**options)


def test_a_resolution_that_is_no_multiple_is_refused():
    with pytest.raises(
        ValueError, match=r"data\.resolution=100 must be a multiple of data\.buckets\.multiple=16"
    ):
        buckets().shapes(100)


def test_a_transposed_image_is_cropped_as_the_image_is():
    from t2ilab.data.decode import fit

    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    image = small.resize((140, 90), Image.Resampling.BICUBIC)
    turned = fit(image.transpose(Image.Transpose.TRANSPOSE), 80, 48)
    straight = np.array(fit(image, 48, 80)).transpose(1, 0, 2)
    assert np.abs(np.array(turned).astype(int) - straight).max() <= 2, (
        "more than the rounding between two passes"
    )
