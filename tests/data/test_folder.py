import itertools
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilab.data import decode, verify
from t2ilab.data.folder import FolderSource, split_position
from t2ilab.data.report import DataReport, Drop, Reason
from t2ilab.data.source import Source


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))


def write_image(path, size=(40, 40), colour=(10, 200, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def captioned(path, text="an image", **options):
    write_image(path, **options)
    path.with_suffix(".txt").write_text(text)


def source(path, split="train", **options):
    return FolderSource(str(path), 32, split=split, **options)


def both(path, **options):
    """Used images with their captions, whichever split they are in."""
    found = {}
    for split in ("train", "val"):
        part = source(path, split, **options)
        found |= {name: part.captions(index) for index, name in enumerate(part.paths)}
    return found


def drops(report):
    return {drop.path: str(drop.reason) for drop in report.images + report.captions}


def test_a_folder_is_a_source(tmp_path):
    data = tmp_path / "data"
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]):
        captioned(data / f"{number}.png", f"colour {number}", colour=colour, size=(40 + number, 50))
    train = source(data)
    assert isinstance(train, Source)
    assert train.resolution == 32
    images = train.images([1, 0, 1])
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype is torch.uint8
    assert torch.equal(images[0], images[2])
    for index, name in enumerate(train.paths):
        with Image.open(data / name) as image:
            assert train.images([index])[0, :, 5, 5].tolist() == list(image.getpixel((0, 0)))
        assert train.captions(index) == [f"colour {name[0]}"]
    assert train.images([]).shape == (0, 3, 32, 32)


def test_each_line_of_a_text_file_is_a_caption(tmp_path):
    data = tmp_path / "data"
    captioned(data / "a.png", "\ufeffone  dog\n\n two dogs \r\none dog\n")
    captioned(data / "deep" / "er" / "b.PNG", "a cat")
    assert both(data) == {"a.png": ["one  dog", "two dogs", "one dog"], "deep/er/b.PNG": ["a cat"]}


def test_metadata_in_lines_of_json(tmp_path):
    data = tmp_path / "data"
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        write_image(data / name)
    rows = [{"file_name": "a.png", "text": "an a"}, {"file_name": "./sub/b.png", "text": ["a b", "the b"]}]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (data / "sub" / "metadata.jsonl").write_text(json.dumps({"file_name": "c.png", "caption": "a c"}))
    assert both(data) == {"a.png": ["an a"], "sub/b.png": ["a b", "the b"], "sub/c.png": ["a c"]}


def test_metadata_as_csv_with_a_chosen_column(tmp_path):
    data = tmp_path / "data"
    for name in ("a.png", "b.png"):
        write_image(data / name)
    (data / "metadata.csv").write_text(
        ',file_name,text,long\n0,a.png,short,"long, and\nquoted"\n1,b.png,x,long b\n'
    )
    assert both(data) == {"a.png": ["short"], "b.png": ["x"]}
    assert both(data, caption_column="long") == {"a.png": ["long, and quoted"], "b.png": ["long b"]}


def test_a_text_file_adds_to_metadata(tmp_path):
    data = tmp_path / "data"
    captioned(data / "a.png", "from the file\nfrom both")
    captioned(data / "b.png", "b")
    (data / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "from both"}\n{"file_name": "b.png", "text": null}'
    )
    assert both(data) == {"a.png": ["from both", "from the file"], "b.png": ["b"]}


def test_captions_of_several_kinds_are_weighed_by_kind(tmp_path):
    data = tmp_path / "data"
    for name in ("a.png", "b.png"):
        write_image(data / name)
    (data / "a.txt").write_text("own\nown again\n")
    rows = [
        {"file_name": "a.png", "short": ["a", "an a"], "long": "all of a", "other": "not read"},
        {"file_name": "b.png", "short": "", "long": "all of b"},
    ]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def weighed(**weights):
        part = source(data, val_share=0.0, caption_weights=weights)
        texts = {name: part.captions(index) for index, name in enumerate(part.paths)}
        return texts, {name: part.weights(index) for index, name in enumerate(part.paths)}, part

    texts, weights, part = weighed(short=1, long=3, txt=2)
    assert texts["a.png"] == ["a", "an a", "all of a", "own", "own again"]
    assert weights == {"a.png": [0.5, 0.5, 3, 1, 1], "b.png": [3]}
    assert part.report.facts["images with captions"] == {"long": 2, "short": 1, "txt": 1}
    texts, weights, other = weighed(short=1, long=0, txt=2)
    assert weights == {"a.png": [0.5, 0.5, 0, 1, 1], "b.png": None}, "an image shows what it has"
    assert other.digest() == part.digest()
    texts, weights, other = weighed(short=1, long=0)
    assert texts == {"a.png": ["a", "an a", "all of a"], "b.png": ["all of b"]}
    assert other.digest() != part.digest()


def test_every_fault_has_its_name(tmp_path):
    data = tmp_path / "data"
    for name in ("good1", "good2", "empty", "none", "latin"):
        captioned(data / f"{name}.png")
    captioned(data / "tiny.png", size=(15, 400))
    captioned(data / "broken.jpg")
    (data / "broken.jpg").write_bytes((data / "broken.jpg").read_bytes()[:300])
    (data / "nothing.webp").touch()
    (data / "phone.HEIC").write_bytes(b"....ftypheic")
    (data / "phone.txt").write_text("a phone")
    (data / "empty.txt").write_text(" \n\n")
    (data / "none.txt").unlink()
    (data / "latin.txt").write_bytes(b"caf\xe9")
    (data / "lonely.txt").write_text("no image of me")
    (data / "movie.mp4").touch()
    (data / ".hidden.png").touch()
    (data / ".git").mkdir()
    write_image(data / ".git" / "x.png")
    write_image(data / "row.png")
    rows = [("row.png", "a row"), ("row.png", "again"), ("gone.png", "gone"), ("../out.png", "outside")]
    (data / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f"{name},{text}\n" for name, text in rows)
    )

    report = source(data).report
    assert drops(report) == {
        "empty.png": "empty caption",
        "none.png": "no caption",
        "latin.png": "unreadable caption",
        "tiny.png": "too small",
        "broken.jpg": "corrupt",
        "nothing.webp": "corrupt",
        "phone.HEIC": "unsupported",
        "lonely.txt": "caption without image",
        "metadata.csv:3": "duplicate path in metadata",
        "metadata.csv:4": "caption without image",
        "metadata.csv:5": "caption without image",
    }
    assert both(data) == {"good1.png": ["an image"], "good2.png": ["an image"], "row.png": ["a row"]}
    assert (report.found, report.used) == (10, 3)
    assert report.splits == {"train": 2, "val": 1}


def test_an_image_without_a_caption_takes_that_of_the_option(tmp_path):
    data = tmp_path / "data"
    captioned(data / "own.png", "my cat\nmy other cat")
    captioned(data / "empty.png", "\n")
    captioned(data / "latin.png")
    (data / "latin.txt").write_bytes(b"caf\xe9")
    write_image(data / "none.png")
    found = both(data, caption="a photo of a cat")
    given = ["a photo of a cat"]
    assert found == {"own.png": ["my cat", "my other cat"], "empty.png": given, "none.png": given}
    report = source(data, caption="a photo of a cat").report
    assert drops(report) == {"latin.png": "unreadable caption"}
    assert report.facts["images with captions"] == {"data.caption": 2, "caption": 1}
    assert "  images with captions: data.caption: 2, caption: 1\n" in report.text()
    weighed = source(data, caption="a photo of a cat", caption_weights={"txt": 2}, val_share=0.0)
    assert [weighed.weights(index) for index in range(3)] == [None, None, [1.0, 1.0]]


def test_images_alone_train_with_the_caption_of_the_option(tmp_path):
    only_images(tmp_path / "data")
    with pytest.raises(ValueError, match=r"data\.caption='a photo of"):
        source(tmp_path / "data")
    assert source(tmp_path / "data", caption=" a cat ").captions(0) == ["a cat"]


def test_a_prefix_stands_before_every_caption_and_is_part_of_the_content(tmp_path):
    data = tmp_path / "data"
    captioned(data / "a.png", "one\ntwo")
    write_image(data / "b.png")
    found = both(data, caption="three", caption_prefix="sks cat,")
    assert found == {"a.png": ["sks cat, one", "sks cat, two"], "b.png": ["sks cat, three"]}
    plain, begun = (source(data, caption="three", caption_prefix=prefix) for prefix in (None, "sks"))
    assert plain.digest() != begun.digest()
    assert plain.image_digest() == begun.image_digest()


KINDS = ("good", "small", "cut", "void", "foreign")
TEXT = {"good": b"text", "empty": b"\n", "bad": b"\xff", "none": None}
ROW = ("good", "empty", "twice", "none")


def test_images_found_are_images_used_plus_named_drops_for_every_mixture(tmp_path):
    data = tmp_path / "data"
    rows, wanted = [], 0
    for number, (kind, text, row) in enumerate(itertools.product(KINDS, TEXT, ROW)):
        name = f"{number}.{'svg' if kind == 'foreign' else 'png'}"
        write_image(data / f"{number}.png", size=(12, 90) if kind == "small" else (32, 33))
        whole = (data / f"{number}.png").read_bytes()
        (data / f"{number}.png").unlink()
        (data / name).write_bytes(whole[: {"cut": 60, "void": 0}.get(kind)])
        if TEXT[text] is not None:
            (data / f"{number}.txt").write_bytes(TEXT[text])
        rows += [(name, "" if row == "empty" else "x")] * {"none": 0, "twice": 2}.get(row, 1)
        wanted += kind == "good" and (text == "good" or row in ("good", "twice"))
    (data / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},{t}\n" for n, t in rows))
    report = source(data).report
    assert report.found == len(KINDS) * len(TEXT) * len(ROW)
    assert report.used == wanted == report.found - len({drop.path for drop in report.images})
    assert len(report.captions) == len(KINDS) * len(TEXT)  # one repeated row each
    counts = report.counts()
    share = len(TEXT) * len(ROW)
    assert (counts["too small"], counts["corrupt"], counts["unsupported"]) == (share, 2 * share, share)


def test_the_smallest_accepted_side_is_half_the_resolution_or_as_chosen(tmp_path):
    data = tmp_path / "data"
    for side in (8, 15, 16, 31, 32):
        captioned(data / f"{side}.png", size=(side, 60))
    assert set(both(data)) == {"16.png", "31.png", "32.png"}
    assert source(data, min_size=0).report.used == 5
    assert source(data, min_size=31).report.used == 2


def test_splits_share_nothing_and_depend_on_the_path_only(tmp_path):
    data = tmp_path / "data"
    for number in range(60):
        captioned(data / f"{number}.png")
    train, val = source(data, val_share=0.3).paths, source(data, "val", val_share=0.3).paths
    assert set(train) | set(val) == {f"{number}.png" for number in range(60)}
    assert not set(train) & set(val)
    assert set(val) == {f"{n}.png" for n in range(60) if split_position(f"{n}.png") < 0.3}
    for number in range(60, 80):
        captioned(data / f"{number}.png")
    assert set(val) <= set(source(data, "val", val_share=0.3).paths)
    assert abs(np.mean([split_position(str(n)) < 0.05 for n in range(20000)]) - 0.05) < 0.01


def test_forty_images_hold_two_out_for_the_loss(tmp_path):
    for number in range(40):
        write_image(tmp_path / f"{number}.png")
    counts = [len(source(tmp_path, split, val_share=0.001, caption="a cat")) for split in ("train", "val")]
    assert counts == [38, 2]


@pytest.mark.parametrize("val_share", [0.001, 0.999])
def test_two_images_make_two_splits(tmp_path, val_share):
    for name in "ab":
        captioned(tmp_path / "data" / f"{name}.png")
    parts = [source(tmp_path / "data", split, val_share=val_share).paths for split in ("train", "val")]
    assert sorted(map(len, parts)) == [1, 1]
    assert parts[0] != parts[1]


def test_one_image_trains_and_cannot_validate(tmp_path):
    captioned(tmp_path / "data" / "a.png")
    assert source(tmp_path / "data").paths == ["a.png"]
    with pytest.raises(ValueError, match=r"no image is in split val .* data\.val_share"):
        source(tmp_path / "data", "val")


def count_looks(monkeypatch):
    looks = []
    original = decode.decode

    def counting(data, **options):
        looks.append(len(data))
        return original(data, **options)

    monkeypatch.setattr(decode, "decode", counting)
    return looks


def test_a_second_start_looks_only_at_what_has_changed(tmp_path, monkeypatch):
    data = tmp_path / "data"
    for number in range(6):
        captioned(data / f"{number}.bmp")  # of equal size whatever the colour
    looks = count_looks(monkeypatch)
    first = source(data)
    assert len(looks) == 6
    assert source(data).digest() == first.digest()
    assert len(looks) == 6
    write_image(data / "3.bmp", colour=(1, 1, 1))
    os.utime(data / "3.bmp", ns=(1, 1))
    changed = source(data)
    assert len(looks) == 7
    assert changed.digest() != first.digest()
    (data / "4.bmp").unlink()
    (data / "4.txt").unlink()
    assert source(data).report.found == 5
    assert len(looks) == 7
    assert changed.report.found == 6
    (next((tmp_path / "cache").glob("*.json"))).write_text("{broken")
    assert source(data).report.found == 5
    assert len(looks) == 12


def test_an_unwritable_cache_does_no_harm(tmp_path, monkeypatch, caplog):
    captioned(tmp_path / "data" / "a.png")
    (tmp_path / "file").touch()
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "file" / "cache"))
    assert len(source(tmp_path / "data")) == 1
    assert "not kept" in caplog.text


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    def make(where, colour=(1, 2, 3), text="text", resolution=32):
        captioned(tmp_path / where / "a.png", text, colour=colour)
        return FolderSource(str(tmp_path / where), resolution).digest()

    same = {make("one"), make("two")}
    assert len(same) == 1
    others = {make("three", colour=(1, 2, 4)), make("four", text="texts"), make("five", resolution=16)}
    assert len(same | others) == 4


def test_an_image_that_goes_bad_later_is_named(tmp_path):
    captioned(tmp_path / "data" / "a.png")
    data = source(tmp_path / "data")
    (tmp_path / "data" / "a.png").write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"a\.png was good when training started"):
        data.images([0])


def test_links_to_folders_are_followed_once(tmp_path):
    captioned(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dead.png").symlink_to(tmp_path / "nowhere")
    report = source(tmp_path / "data").report
    assert (report.found, report.used) == (2, 1)
    assert drops(report) == {"dead.png": "corrupt"}


def test_what_is_named_like_an_image_and_is_none_is_dropped_by_name(tmp_path):
    data = tmp_path / "data"
    captioned(data / "a.png")
    captioned(data / "b.png")
    captioned(data / "c.png" / "d.png", "within a folder of that name")
    os.mkfifo(data / "pipe.png")
    os.mkfifo(data / "a2.txt")
    (data / "round.png").symlink_to(data / "about.png")
    (data / "about.png").symlink_to(data / "round.png")
    for hidden in ("._a.png", "._a.txt", ".b.png"):
        (data / hidden).write_bytes(b"\0\5\x16\7")
    report = source(data).report
    assert drops(report) == {
        "pipe.png": "corrupt",
        "round.png": "corrupt",
        "about.png": "corrupt",
        "a2.txt": "caption without image",
    }
    assert report.used == 3


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    data = tmp_path / "data"
    captioned(data / "a.png")
    captioned(data / "closed" / "b.png")
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = source(data).report
    assert drops(report) == {"closed": "unreadable folder"}
    assert "ignored: 1 unreadable folder: closed (Permission denied)" in report.text()


def test_what_does_not_fit_in_memory_is_tried_again_at_the_next_start(tmp_path, monkeypatch):
    data = tmp_path / "data"
    for name in "ab":
        captioned(data / f"{name}.png")
    full, original = True, decode.decode

    def short_of_memory(content, **options):
        if full:
            raise MemoryError
        return original(content, **options)

    captioned(data / "c.png")
    monkeypatch.setattr(decode, "decode", short_of_memory)
    with pytest.raises(
        ValueError, match=r"(?s)none of 3 images.*3 unsupported: a\.png \(it does not fit in memory"
    ):
        source(data)
    full = False
    assert source(data).report.used == 3


def nothing(data):
    data.mkdir()


def no_folder(data):
    pass


def a_file(data):
    data.touch()


def only_images(data):
    write_image(data / "a.png")


def only_broken(data):
    captioned(data / "a.png")
    (data / "a.png").write_bytes(b"x")


def other_columns(data):
    write_image(data / "a.png")
    (data / "metadata.csv").write_text("file_name,label\na.png,3\n")


def no_file_names(data):
    write_image(data / "a.png")
    (data / "metadata.jsonl").write_text('{"image": "a.png", "text": "t"}')


def broken_json(data):
    write_image(data / "a.png")
    (data / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "t"}\n{"file_name"')


def loose_csv(data):
    write_image(data / "a.png")
    (data / "metadata.csv").write_text("file_name,text\na.png,one, two\n")


def number_caption(data):
    write_image(data / "a.png")
    (data / "metadata.jsonl").write_text('{"file_name": "a.png", "text": 3}')


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, r"data\.path=.*data: no such folder"),
        (a_file, r"data\.path=.*data: not a folder"),
        (nothing, r"data\.path=.*no images in it \(0 other files\)"),
        (only_images, r"data\.path=.*1 images.*no caption.*name\.txt.*metadata\.jsonl"),
        (only_broken, r"(?s)data\.path=.*none of 1 images can be used.*1 corrupt: a\.png"),
        (other_columns, r"metadata\.csv has no caption column text or caption; set data\.caption_column"),
        (no_file_names, r"metadata\.jsonl needs a column file_name.*'image'"),
        (broken_json, r"metadata\.jsonl, line 2: not JSON"),
        (loose_csv, r"metadata\.csv, line 2: more fields than columns"),
        (number_caption, r"line 1: column text must hold a text"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        source(tmp_path / "data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, r"data\.path"),
        ({"val_share": 1.0}, r"data\.val_share"),
        ({"resolution": 0}, r"data\.resolution"),
        ({"split": "test"}, "train, val"),
        ({"caption_column": "prose"}, r"prose"),
        ({"caption_weights": {"prose": 1}}, r"data\.caption_weights\.prose: no image .* has such a caption"),
        ({"caption_weights": {"text": 0}}, r"data\.caption_weights must not be negative, nor all 0"),
        ({"caption": " "}, r"data\.caption must be words or null, got ' '"),
        ({"caption_prefix": ""}, r"data\.caption_prefix must be words or null, got ''"),
        ({"caption_weights": {"text": 1}, "caption_column": "text"}, r"leave data\.caption_column null"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, message):
    captioned(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(ValueError, match=message):
        FolderSource(**{"path": str(tmp_path / "data"), **options})


def test_an_interrupted_look_keeps_what_it_has_seen(tmp_path, monkeypatch):
    data = tmp_path / "data"
    for number in range(9):
        captioned(data / f"{number}.png")
    original = verify._check

    def interrupted(path, known):
        if path.name == "6.png":
            raise KeyboardInterrupt
        return original(path, known)

    monkeypatch.setattr(verify, "_check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source(data, threads=1)
    monkeypatch.setattr(verify, "_check", original)
    looks = count_looks(monkeypatch)
    source(data)
    assert len(looks) == 3


def test_the_report_reads_well_and_leaves_nothing_out():
    corrupt = [Drop(f"{n}.jpg", Reason.CORRUPT) for n in range(5)]
    images = (*corrupt, Drop("s.png", Reason.TOO_SMALL, "4 x 4"))
    report = DataReport(
        "dir", 10, 4, images, (Drop("x.txt", Reason.CAPTION_WITHOUT_IMAGE),), {"train": 3, "val": 1}
    )
    assert report.text() == (
        "dir: 10 images found = 4 used + 6 dropped\n"
        "  used: train 3, val 1\n"
        "  dropped: 5 corrupt: 0.jpg; 1.jpg; 2.jpg; and 2 more\n"
        "  dropped: 1 too small: s.png (4 x 4)\n"
        "  ignored: 1 caption without image: x.txt"
    )
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["images"][-1] == {"path": "s.png", "reason": "too small", "detail": "4 x 4"}
    assert len(plain["images"]) + plain["used"] == plain["found"]
    assert plain["counts"] == {"corrupt": 5, "too small": 1, "caption without image": 1}
    with pytest.raises(AssertionError):
        DataReport("dir", 3, 1, images)


def test_latents_do_not_depend_on_captions_but_rows_do(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    place.mkdir()
    for number in range(8):
        captioned(place / f"{number}.png")
    first = source(place)
    for text in place.glob("*.txt"):
        text.write_text("something else")
    second = source(place)
    assert first.image_digest() == second.image_digest() != FolderSource(str(place), 16).image_digest()
    assert first.digest() != second.digest()
