"""Comparisons from files in the layouts of the published data sets."""

import io
import json

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from t2ilab.data import preference_files
from t2ilab.data.comparison_source import ABSENT
from t2ilab.data.preference_files import dense, scan
from t2ilab.data.preferences import PreferenceFiles


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
    assert "HPD v2 pairs" in found.text() and "dropped: 1 an image is missing" in found.text()
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


def test_a_row_of_jsonl_is_a_line_whatever_separators_its_prompt_holds(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.png", (100 * number, 0, 0))
    rows = [{"prompt": f"one\u2028line \x85 {n}", "path1": "0.png", "path2": "1.png"} for n in range(8)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8-sig", newline="")
    data = opened(tmp_path, val_share=0.5)
    assert sum(map(len, data.found.splits.values())) == 8 and data.train.prompts([0])[0].startswith(
        "one\u2028"
    )


def test_labels_that_are_no_numbers_are_counted_and_decide_nothing(tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.png", (100 * number, 0, 0))
    images = {"prompt": "x", "image_path": ["0.png", "1.png", "2.png"]}
    pair = {"prompt": "y", "file_path": ["0.png", "1.png"]}
    rows = [images | {"rank": ["9", "10", "11"]}, images | {"rank": [1, float("nan"), 2]}]
    rows += [pair | {"human_preference": ["1", "0"]}]
    rows += [images | {"prompt": f"{number}", "rank": [3, 1, 2]} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = opened(tmp_path, val_share=0.5)
    assert data.found.used == 8 and data.found.dropped == {"a label is no number": 3}


def jpeg(color):
    file = io.BytesIO()
    Image.new("RGB", (40, 32), color).save(file, "PNG")
    return file.getvalue()


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


RED, BLUE = jpeg("red"), jpeg("blue")


def pick(first, second, **more):
    images = {"caption": "a", "jpg_0": RED, "jpg_1": BLUE, "has_label": True}
    return images | {"label_0": first, "label_1": second} | more


def test_pick_a_pic_in_parquet_has_decisions_ties_rows_without_label_and_without_image(tmp_path):
    rows = [pick(1.0, 0.0), pick(0.0, 1.0), pick(0.5, 0.5)]
    rows += [pick(0.0, 0.0, has_label=False), pick(1.0, 0.0, jpg_1=None), pick(1.0, 0.0, jpg_0=b"no image")]
    write(tmp_path / "data/train-00000-of-00001.parquet", rows, row_group_size=2)
    write(tmp_path / "data/validation-00000-of-00001.parquet", [pick(1.0, 0.0)])
    data = opened(tmp_path)
    assert data.train.ranks(range(3)).tolist() == [[0, 1], [1, 0], [0, 0]] and len(data.val) == 1
    assert data.train.images([2, 0])[:, :, :, 9, 9].tolist() == [[[255, 0, 0], [0, 0, 255]]] * 2
    facts = data.report().to_dict()
    assert facts["found"] == 7 and facts["used"] == {"train": 3, "val": 1}
    assert facts["pairs"] == {"decided": 3, "ties": 1}
    assert facts["dropped"] == dict.fromkeys(
        ("no label", "an image is missing", "an image cannot be read"), 1
    )
    said = data.report().text()
    assert "7 comparisons found = 4 used + 3 dropped" in said and "3 decided, 1 ties" in said
    assert "train-00000-of-00001.parquet: Pick-a-Pic, 6" in said


def test_hpd_v2_in_parquet_reads_pairs_and_rankings_with_images_in_their_cells(tmp_path):
    pair = {"prompt": "a", "file_path": [RED, BLUE], "human_preference": [0, 1]}
    ranking = {"prompt": "b", "image_path": [RED, BLUE, RED], "rank": [2, 1, 3]}
    write(tmp_path / "train/0000.parquet", [pair])
    write(tmp_path / "test/0000.parquet", [ranking])
    data = opened(tmp_path)
    assert data.train.ranks([0]).tolist() == [[1, 0, ABSENT]] and data.val.ranks([0]).tolist() == [[1, 0, 2]]
    assert data.val.images([0])[0, :, :, 9, 9].tolist() == [[255, 0, 0], [0, 0, 255], [255, 0, 0]]


def test_hpd_v3_prefers_its_first_image_and_can_be_cut_by_confidence(tmp_path):
    save(tmp_path / "images/a.png", "red")
    save(tmp_path / "images/b.png", "blue")
    shared = {"path1": "images/a.png", "path2": "images/b.png", "model1": "x", "model2": "y"}
    votes = [([0.9, 0.1], 0.97), ([0.5, 0.5], 0.96), ([0.6, 0.4], 0.6), (None, None)]
    rows = [
        {"prompt": f"p{n}", "choice_dist": dist, "confidence": sure, **shared}
        for n, (dist, sure) in enumerate(votes)
    ]
    write(tmp_path / "train.parquet", rows)
    (tmp_path / "test.json").write_text(json.dumps(rows[:1]))
    data = opened(tmp_path)
    assert data.train.ranks(range(4)).tolist() == [[0, 1], [0, 0], [0, 1], [0, 1]]
    sure = opened(tmp_path, min_confidence=0.95)
    assert sure.train.prompts(range(3)) == ["p0", "p1", "p3"]
    assert dict(sure.found.dropped) == {"confidence below data.min_confidence=0.95": 1}


def test_image_reward_db_in_parquet_is_groups_or_a_row_per_image_over_files(tmp_path):
    def image(data):
        return {"bytes": data, "path": "x.webp"}

    group = {"prompt_id": "g", "prompt": "c", "image": [image(RED), image(BLUE)], "rank": [2, 1]}
    write(tmp_path / "group/validation.parquet", [group])
    each = [
        {"prompt_id": "p", "prompt": "d", "image": image(data), "rank": n}
        for n, data in enumerate((BLUE, RED))
    ]
    each.append({"prompt_id": "q", "prompt": "e", "image": image(RED), "rank": 1})
    write(tmp_path / "images/train-0.parquet", each[:1])
    write(tmp_path / "images/train-1.parquet", each[1:])
    data = opened(tmp_path)
    assert data.train.prompts([0]) == ["d"] and data.train.ranks([0]).tolist() == [[0, 1]]
    assert data.train.images([0])[0, :, :, 9, 9].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert data.val.ranks([0]).tolist() == [[1, 0]]
    assert dict(data.found.dropped) == {"fewer than two images": 1}


def test_other_files_beside_the_comparisons_are_named_and_left_out(hpd):
    (hpd / "dataset_infos.json").write_text('{"default": {}}')
    assert list(opened(hpd).report().to_dict()["ignored"]) == ["dataset_infos.json"]
    write(hpd / "train.parquet", [pick(1.0, 0.0)])
    (hpd / "train.parquet").write_bytes((hpd / "train.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"train\.parquet is damaged"):
        opened(hpd)


def test_parquet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 't2ilab\[parquet\]'"):
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("at_once", [1, 3])
def test_images_are_looked_at_ahead_few_at_a_time_and_comparisons_keep_their_order(
    tmp_path, monkeypatch, at_once
):
    """Also where the rows of one comparison lie far apart, so that none is whole before the last."""
    monkeypatch.setattr(preference_files, "AT_ONCE", at_once)
    rows = [
        {
            "prompt_id": f"{i % 5}",
            "prompt": f"p{i % 5}",
            "image": {"bytes": jpeg((9 * i, 0, 0))},
            "rank": i // 5,
        }
        for i in range(15)
    ]
    write(tmp_path / "train.parquet", rows)
    found = scan(tmp_path, 0.0)
    assert [row.prompt for row in found.splits["train"]] == [f"p{i}" for i in range(5)]
    assert all(row.ranks == (0, 1, 2) and len(row.images) == 3 for row in found.splits["train"])
    digests = [image.digest for row in found.splits["train"] for image in row.images]
    assert len(set(digests)) == 15
