"""Comparisons from files in the layouts of the published data sets."""

import io
import json

import pytest
import torch
from PIL import Image

from t2ilab.data import preferences
from t2ilab.data.comparisons import ABSENT
from t2ilab.data.preferences import PreferenceFiles, dense, scan


def save(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), color).save(path)


def opened(folder, **options):
    return PreferenceFiles(
        path=str(folder), **({"resolution": 32, "val_share": 0.5, "batch_size": 2, "workers": 0} | options)
    )


@pytest.fixture
def hpd(tmp_path):
    for number, color in enumerate(("red", "blue", "green")):
        save(tmp_path / f"train/{number}.png", color)
        save(tmp_path / f"test/{number}.png", color)
    train = [
        {"prompt": "a", "file_path": ["0.png", "1.png"], "human_preference": [0, 1]},
        {"prompt": "b", "file_path": ["0.png", "9.png"], "human_preference": [1, 0]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(train))
    ranked = [{"prompt": "c", "image_path": ["0.png", "1.png", "2.png"], "rank": [2.5, 1.0, 2.5]}]
    (tmp_path / "test.json").write_text(json.dumps(ranked))
    return tmp_path


def test_pairs_and_rankings_of_hpd_are_told_by_their_columns(hpd):
    data = opened(hpd)
    assert data.train.prompts([0]) == ["a"] and data.val.prompts([0]) == ["c"]
    assert data.train.ranks([0]).tolist() == [[1, 0, ABSENT]]
    assert data.val.ranks([0]).tolist() == [[1, 0, 1]]
    images = data.train.images([0])
    assert images.shape == (1, 3, 3, 32, 32)
    assert images[0, :, :, 9, 9].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 0]]


def test_what_is_dropped_is_counted_with_its_reason(hpd):
    (hpd / "train/1.png").write_bytes(b"no image")
    found = scan(hpd, 0.5)
    assert dict(found.dropped) == {"an image is missing": 1, "an image cannot be read": 1}
    assert "HPD v2 pairs" in found.text() and "dropped 1: an image is missing" in found.text()
    with pytest.raises(ValueError, match="nothing to train on"):
        opened(hpd)


def test_another_image_is_another_digest(hpd):
    before = opened(hpd).train.digest()
    save(hpd / "train/0.png", "white")
    assert opened(hpd).train.digest() != before


def test_rankings_of_image_reward_are_split_by_prompt(tmp_path):
    for number in range(2):
        save(tmp_path / f"images/{number}.png", "red")
    rows = [{"prompt": f"p{i}", "generations": ["0.png", "1.png"], "ranking": [1, 2]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *rows]))
    data = opened(tmp_path)
    train, val = (set(split.prompts(range(len(split)))) for split in (data.train, data.val))
    assert len(data.train) + len(data.val) == 80 and train and val and not train & val


def test_labels_of_pick_a_pic_are_decisions_ties_or_none(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (40, 32), "red").save(file, "JPEG")
    row = {"caption": "a", "jpg_0": file.getvalue(), "jpg_1": file.getvalue(), "has_label": True}
    labels = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    rows = [row | {"label_0": a, "label_1": b} for a, b in labels] + [
        row | {"has_label": False, "label_0": 0, "label_1": 0}
    ]
    (tmp_path / "train.parquet").touch()
    monkeypatch.setattr(preferences, "rows_of", lambda path: iter(rows))
    found = scan(tmp_path, 1e-9)
    assert [one.ranks for one in found.splits["train"]] == [(0, 1), (1, 0), (0, 0)]
    assert dict(found.dropped) == {"no label": 1}


def test_parquet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(ValueError, match=r"parquet files need pyarrow: pip install 't2ilab\[parquet\]'"):
        opened(tmp_path)


def test_files_that_nobody_can_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.json"):
        opened(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}]))
    with pytest.raises(ValueError, match=r"has the columns text, wanted those of one of: Pick-a-Pic"):
        opened(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        opened(tmp_path)


def test_ranks_are_dense_and_keep_ties():
    assert dense([2.5, 1.0, 2.5, 7]) == (1, 0, 1, 2)
    assert torch.equal(torch.tensor(dense([-1, -0.0])), torch.tensor([0, 1]))
