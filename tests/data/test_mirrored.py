"""Mirror images as rows of their own."""

import pytest
import torch

from t2ilab.data.mirrored import Mirrored
from t2ilab.data.sets import Folder
from tests.photographs import folder_of_shapes, photograph


def folder(path, *, flip=True, buckets=None):
    return Folder(
        path=str(path),
        resolution=16,
        val_share=0.2,
        caption_column=None,
        min_size=None,
        batch_size=4,
        workers=0,
        flip=flip,
        buckets=buckets,
    )


@pytest.fixture
def photos(tmp_path):
    texts = ["a cat", "a cat on the left", "a copyright notice\na bright cat", "The RIGHTMOST cat\na cat"]
    for number in range(10):
        photograph(tmp_path / f"{number}.png", number)
        (tmp_path / f"{number}.txt").write_text(texts[number % 4])
    return tmp_path


def test_every_image_comes_as_it_is_and_mirrored_with_its_captions(photos):
    data = folder(photos)
    plain, train = data.folder, data.train
    rows = [len(plain) + place for place in range(len(train.mirrored))]
    assert torch.equal(train.images(range(len(plain))), plain.images(range(len(plain))))
    assert torch.equal(train.images(rows), plain.images(train.mirrored).flip(3))
    assert [train.captions(row) for row in rows] == [plain.captions(index) for index in train.mirrored]
    mixed = [rows[0], 0, rows[-1]]
    assert torch.equal(train.images(mixed), torch.cat([train.images([row]) for row in mixed]))


def test_an_image_with_a_caption_that_names_a_side_is_not_mirrored(photos):
    data = folder(photos)
    named = [
        index for index in range(len(data.folder)) if "cat on the left" in str(data.folder.captions(index))
    ]
    named += [index for index in range(len(data.folder)) if "RIGHTMOST" in str(data.folder.captions(index))]
    assert named and sorted({*range(len(data.folder))} - {*data.train.mirrored}) == sorted(named)
    assert f"{len(named)} have captions that name left or right" in data.summary()


def test_an_epoch_sees_both_and_validation_neither_more_nor_less(photos):
    data, plain = folder(photos), folder(photos, flip=False)
    assert data.order(0).num_rows == len(data.train) == len(plain.train) + len(data.train.mirrored)
    assert data.val.digest() == plain.val.digest()
    assert data.digest() != plain.digest()
    assert data.train.image_digest() != plain.train.image_digest()
    assert data.preview_prompts() == plain.preview_prompts()


def test_shapes_are_mirrored_in_their_shapes(tmp_path):
    from t2ilab.data.buckets import Buckets

    data = folder(
        folder_of_shapes(tmp_path / "photos", 24), buckets=Buckets(multiple=8, max_aspect=2.0, least=4)
    )
    sources = data.sources()
    assert all(isinstance(source, Mirrored) for source in sources)
    assert data.order(0).sizes == tuple(2 * len(bucket) for bucket in data.buckets)
    for source, bucket in zip(sources, data.buckets, strict=True):
        assert source.images([len(bucket)]).shape[2:] == (bucket.height, bucket.width)
    assert sum(data.report().buckets.values()) == len(data.folder)
