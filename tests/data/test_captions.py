"""Captions and metadata of others: odd characters, other forms of a name, broken rows, rows without an image."""

import json
import os
import random
from unicodedata import normalize

import pytest
from PIL import Image

from t2ilab.core.characters import printable, whole
from t2ilab.data.folder import FolderSource
from t2ilab.data.naming import Names
from t2ilab.text.random import RandomText
from t2ilab.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_images(data, *names):
    for name in names:
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (33, 33), (len(name) * 9 % 256, 7, 7)).save(path)


def source(data, **options):
    return FolderSource(str(data), 32, val_share=0.0, **options)


def captions(data, **options):
    part = source(data, **options)
    return {name: part.captions(index) for index, name in enumerate(part.paths)}


SEPARATORS = "\v \f \x1c \x1d \x1e \x85 \u2028 \u2029"  # all of which end a line for str.splitlines


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_caption_is_a_line_and_keeps_every_other_separator(data, end, mark):
    write_images(data, "a.png", "b.png")
    lines = [f"a dog{SEPARATORS}a cat", "  two  dogs\t", "", " ", "\u3000", "one,\xa0more"]
    (data / "a.txt").write_bytes(mark + end.join(lines).encode())
    row = {"file_name": "b.png", "text": [f"a dog{SEPARATORS}a cat", "one\r\n\n two"]}
    (data / "metadata.jsonl").write_bytes(mark + (json.dumps(row, ensure_ascii=False) + end).encode())
    assert captions(data) == {
        "a.png": [f"a dog{SEPARATORS}a cat", "two  dogs", "one,\xa0more"],
        "b.png": [f"a dog{SEPARATORS}a cat", "one two"],
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a dog\ncaf\xe9\n", "line 2 is not UTF-8"),
        ("a dog".encode("utf-16"), "line 1 is not UTF-8"),
        ("a dog".encode("utf-16-le"), "NUL characters"),
        (b"a dog" + bytes(200), "NUL characters"),
    ],
)
def test_a_text_file_that_is_not_whole_utf_8_is_dropped_with_its_reason(data, content, why):
    write_images(data, "a.png", "b.png")
    (data / "a.txt").write_text("a")
    (data / "b.txt").write_bytes(content)
    (drop,) = source(data).report.images
    assert (drop.path, str(drop.reason)) == ("b.png", "unreadable caption")
    assert why in drop.detail


def test_a_pipe_named_like_a_caption_is_not_waited_for(data):
    write_images(data, "a.png", "b.png")
    (data / "a.txt").write_text("a")
    os.mkfifo(data / "b.txt")
    assert "not a regular file" in source(data).report.images[0].detail


def test_half_an_emoji_is_replaced_and_said(data):
    write_images(data, "a.png", "b.png")
    (data / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "whole \\ud83d\\ude00"}\n'
        '{"file_name": "b.png", "text": "half \\ud83d"}\n'
    )
    assert captions(data) == {"a.png": ["whole \N{GRINNING FACE}"], "b.png": ["half \ufffd"]}
    report = source(data).report
    assert "mended: 1 broken character: metadata.jsonl:2" in report.text()
    assert list(report.to_dict()["mended"]) == [
        {"path": "metadata.jsonl:2", "reason": "broken character", "detail": ""}
    ]


def readers():
    yield RandomText(dim=8, pooled_dim=None, length=64)
    yield Tokenizer.train(["a dog"], vocab_size=259, length=64)


@pytest.mark.parametrize("broken", ["cut \ud83d", "byte \udce4", "nul \0"])
def test_a_prompt_that_no_tokenizer_reads_is_one_clear_error(broken):
    for read in readers():
        assert read([whole(broken)]) is not None
        with pytest.raises(
            ValueError, match=r"^the prompt '.* \\[xu].*' holds a character that is not whole"
        ):
            read(["good", broken])


@pytest.mark.parametrize("option", ["caption", "caption_prefix"])
def test_options_hold_whole_characters(data, option):
    write_images(data, "a.png")
    with pytest.raises(ValueError, match=rf"data\.{option}=x\\xff holds a character that is not whole"):
        source(data, **{option: "x\udcff"})


def test_names_in_no_known_encoding_are_used_dropped_and_shown(data):
    write_images(data, "a.png", "t.png", "u.png")
    (data / "a.txt").write_text("a")
    (data / "t.png").rename(data / os.fsdecode(b"\x83e\x83X.png"))
    (data / "u.png").rename(data / os.fsdecode(b"f\xfcr.png"))
    for name in (b"f\xfcr.txt", b"\xfcber.txt", b"new\nline\x1b[31m.txt"):
        (data / os.fsdecode(name)).write_text("for")
    part = source(data)
    assert part.images(range(2)).shape == (2, 3, 32, 32)
    text = part.report.text()
    text.encode()
    assert "dropped: 1 no caption: \\x83e\\x83X.png" in text
    assert "\\xfcber.txt" in text and "new\\x0aline\\x1b[31m.txt" in text
    json.dumps(part.report.to_dict(), ensure_ascii=False).encode()
    assert len({part.digest(), source(data).digest()}) == 1


def test_what_is_printable_stays():
    assert printable("caf\xe9 \N{GRINNING FACE} a b") == "caf\xe9 \N{GRINNING FACE} a b"
    assert printable("\udcfc\ud83d\x07\u2028") == "\\xfc\\ud83d\\x07\\u2028"


FORMS = [("NFD", "NFC"), ("NFC", "NFD")]


@pytest.mark.parametrize(("own", "other"), FORMS)
def test_a_name_is_the_same_composed_and_decomposed(data, own, other):
    names = ["caf\xe9/cr\xe8me.png", "\uac00.png", "\u0130\xf1.png"]
    write_images(data, *(normalize(own, name) for name in names))
    (data / "caf.txt").write_text("not one of them")
    (data / normalize(own, "caf\xe9") / normalize(other, "cr\xe8me.txt")).write_text("a coffee")
    rows = [f"{normalize(other, name)},{number}\n" for number, name in enumerate(names[1:])]
    (data / "metadata.csv").write_text("file_name,text\n" + "".join(rows), encoding="utf-8")
    assert captions(data) == dict(
        zip([normalize(own, n) for n in names], [["a coffee"], ["0"], ["1"]], strict=True)
    )


def test_of_two_images_whose_names_look_alike_each_has_its_own_caption(data):
    both = [normalize(form, "\xe9") for form in ("NFC", "NFD")]
    write_images(data, *(f"{name}.png" for name in both))
    for number, name in enumerate(both):
        (data / f"{name}.txt").write_text(f"{number}")
    assert captions(data) == {f"{both[0]}.png": ["0"], f"{both[1]}.png": ["1"]}


LIKELY = [
    (r"C:\data\a.png", "Windows path", "a.png"),
    (r"\\server\share\b.png", "Windows path", "sub/b.png"),
    ("/elsewhere/sub/b.png", "absolute path", "sub/b.png"),
    ("/elsewhere/nothing.png", "absolute path", ""),
    ("A.PNG", "other case", "a.png"),
    ("Sub/B.png", "other case", "sub/b.png"),
    ("a", "no suffix", "a.png"),
    ("a.jpg", "other suffix", "a.png"),
    ("train/sub/b.png", "a folder too many", "sub/b.png"),
    ("deep/train/A", "a folder too many", "a.png"),
    ("b.png", "another folder", "sub/b.png"),
    ("nothing.png", "", ""),
]


@pytest.mark.parametrize(("name", "why", "image"), LIKELY)
def test_a_name_of_no_image_has_a_likely_reason(name, why, image):
    assert Names({"a.png", "sub/b.png", "c.png"}).likely(name) == (why, image)


def test_rows_that_name_no_image_are_counted_by_reason(data):
    write_images(data, "a.png", "sub/b.png", "c.png")
    (data / "c.txt").write_text("c")
    (data / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},x\n" for name, *_ in LIKELY))
    report = source(data).report
    assert report.used == 1 and len(report.captions) == len(LIKELY)
    counted = report.facts["rows of metadata that name no image"]
    assert sum(counted.values()) == len(LIKELY)
    assert counted["other case"] == 2 and counted["nothing of that name"] == 1
    assert "rows of metadata that name no image: " in report.text()
    assert report.captions[4].detail == "no image A.PNG; other case: there is a.png"


@pytest.mark.parametrize("name", [r"C:\data\a.png", "/data/a.png", "a", "train/a.png", "A.png"])
def test_where_no_row_fits_the_error_shows_one_and_why(data, name):
    write_images(data, "a.png")
    (data / "metadata.csv").write_text(f"file_name,text\n{name},x\n")
    reason, _ = Names({"a.png"}).likely(name)
    with pytest.raises(ValueError, match=rf"1 rows of metadata.*\({reason}: 1\)") as caught:
        source(data)
    assert f"metadata.csv:2: no image {name}; {reason}: there is a.png" in str(caught.value)


def test_backslashes_divide_a_path_unless_a_name_has_them(data):
    write_images(data, "sub/b.png", "x\\y.png")
    (data / "metadata.csv").write_text("file_name,text\nsub\\b.png,b\nx\\y.png,x\n")
    assert captions(data) == {"sub/b.png": ["b"], "x\\y.png": ["x"]}


def test_a_text_file_without_an_image_says_what_it_may_belong_to(data):
    write_images(data, "a.png", "b.png")
    for name in ("a.txt", "B.txt", "b.png.txt", "lonely.txt"):
        (data / name).write_text("x")
    assert {drop.path: drop.detail for drop in source(data).report.captions} == {
        "B.txt": "other case: there is b.png",
        "b.png.txt": "suffix of the image in its name: there is b.png",
        "lonely.txt": "",
    }


def test_metadata_of_a_form_that_is_not_read_are_named(data):
    write_images(data, "a.png")
    (data / "a.txt").write_text("a")
    for name in ("metadata.tsv", "Metadata.CSV"):
        (data / name).write_text("x")
    assert [str(drop.reason) for drop in source(data).report.captions] == ["unsupported"] * 2


def test_metadata_in_parquet_are_read_row_by_row(data):
    import pyarrow
    from pyarrow import parquet

    write_images(data, "a.png", "sub/b.png")
    rows = [{"file_name": "a.png", "text": ["an a", "the a"], "thumb": b"x"}]
    rows += [{"file_name": "sub/b.png", "text": ["a b"], "thumb": None}, {"file_name": "c.png", "text": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data / "metadata.parquet")
    found = source(data)
    assert {path: found.captions(n) for n, path in enumerate(found.paths)}.items() <= {
        "a.png": ["an a", "the a"],
        "sub/b.png": ["a b"],
    }.items()
    assert found.report.used == 2
    assert [drop.path for drop in found.report.captions] == ["metadata.parquet:3"]
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}]), data / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet needs a column file_name"):
        source(data)
    (data / "metadata.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"metadata\.parquet is damaged"):
        source(data)


def test_metadata_in_parquet_without_its_reader_say_what_to_install(data, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write_images(data, "a.png")
    (data / "metadata.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"metadata\.parquet needs pyarrow: pip install 't2ilab\[parquet\]'"):
        source(data)
    (data / "a.txt").write_text("a")
    (drop,) = source(data).report.captions
    assert str(drop.reason) == "unsupported" and "needs pyarrow" in drop.detail


HEAD = "file_name,text\n"
BROKEN = {
    "metadata.csv": [
        (HEAD + 'a.png,good\nb.png,"a dog\nc.png,a cat\n', r"line 3: .*a quote is never closed"),
        (HEAD + 'a.png,"a dog\nb.png,"a cat"\n', r"line 2: .*quote"),
        (HEAD + 'a.png,"a dog\nb.png,a cat"\n', r"line 2: a quote is not closed, and the row of b\.png"),
        (HEAD + 'a.png,"he said "hi""\n', r"line 2: .*a quote within quotes is written twice"),
        (HEAD + '\na.png,"two\nlines"\nb.png,x\nc.png\n', r"line 6: fewer fields than columns"),
        (HEAD + "a.png,one, two\n", r"line 2: more fields than columns"),
        ("file_name,text,text\na.png,x,y\n", r"line 1: two columns text"),
        (HEAD.encode() + b"a.png,x\nb.png,caf\xe9\n", r"line 3: not UTF-8"),
        (HEAD.encode() + b"a.png,x\n" + bytes(99), r"line 3: NUL"),
        ((HEAD + "a.png,x\n").encode("utf-16"), r"line 1: not UTF-8"),
        (HEAD + f"a.png,{'x' * 200_000}\n", r"line 2: field larger than field limit"),
        (HEAD + ",x\n", r"line 2: column file_name must name an image, got ''"),
    ],
    "metadata.jsonl": [
        ('{"file_name": "a.png", "text": "x"}\n{"file_name": "b.p', r"line 2: not JSON"),
        ('{"file_name": "a.png", "text": "x}\n', r"line 1: not JSON"),
        ("[" * 100_000, r"line 1: not JSON"),
        ('{"file_name": "a.png", "text": ' + "1" * 9999 + "}", r"line 1: not JSON"),
        ('\n["a.png", "x"]', r"line 2: expected a JSON object"),
        ('{"file_name": "a.png", "text": "x"}\n' + "\0" * 99, r"line 2: NUL"),
        (b'{"file_name": "a.png", "text": "caf\xe9"}', r"line 1: not UTF-8"),
        ('{"file_name": ["a.png"], "text": "x"}', r"line 1: column file_name must name an image"),
        ('{"file_name": "a.png", "text": {"en": "x"}}', r"line 1: column text must hold a text"),
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "why"), [(n, *case) for n, cases in BROKEN.items() for case in cases]
)
def test_a_broken_row_is_an_error_with_file_and_line(data, name, content, why):
    write_images(data, "a.png", "b.png", "c.png")
    (data / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"{name}, {why}"):
        source(data)


def test_metadata_that_are_no_file_are_named(data):
    write_images(data, "a.png")
    os.mkfifo(data / "metadata.csv")
    with pytest.raises(ValueError, match=r"metadata\.csv is not a regular file"):
        source(data)


def test_quotes_inches_and_lines_that_are_meant_are_read(data):
    write_images(data, "a.png", "b.png", "c.png", "d.png")
    (data / "metadata.csv").write_text(
        HEAD + 'a.png,15" wide\nb.png,"he said ""hi"", twice"\nc.png,"one,\ntwo"\n\nd.png,\'quoted\'\n'
    )
    assert captions(data) == {
        "a.png": ['15" wide'],
        "b.png": ['he said "hi", twice'],
        "c.png": ["one, two"],
        "d.png": ["'quoted'"],
    }


def metadata_of(kind):
    texts = ["a dog", 'a "cat", two', "caf\xe9 \N{GRINNING FACE}", "line\nbreak"]
    rows = [{"file_name": f"{name}.png", "text": text} for name, text in zip("abcd", texts, strict=True)]
    if kind == "metadata.jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    quoted = (text.replace('"', '""') for text in texts)
    return (
        HEAD + "".join(f'{name}.png,"{text}"\n' for name, text in zip("abcd", quoted, strict=True))
    ).encode()


def look_at(data, name, content):
    """Everything of a folder with this metadata or text file can be written, or one error names the file."""
    (data / name).write_bytes(content)
    try:
        part = source(data)
    except ValueError as error:
        assert name.startswith("metadata") and ("metadata" in str(error) or "no image" in str(error)), error
        return
    text = part.report.text() + json.dumps(part.report.to_dict(), ensure_ascii=False)
    (text + "".join(map(str, captions(data).items()))).encode()
    for read in readers():
        assert read([part.shown(index) for index in range(len(part))]) is not None


def damaged(content, chance):
    at, length = chance.randrange(len(content)), chance.choice((1, 1, 3, 20))
    odd = [
        b'"',
        b"\\",
        b"\\ud83d",
        b"\0",
        b"\r",
        b"\n",
        b"\xff",
        b"\xe2\x80\xa8",
        b",",
        b"{",
        b"\x1a",
        b"\xef\xbb\xbf",
    ]
    ways = (
        lambda: content[:at],
        lambda: content[:at] + content[at + length :],
        lambda: content[:at] + chance.choice(odd) + content[at:],
        lambda: content[:at] + chance.choice(odd) + content[at + length :],
        lambda: content[:at] + chance.randbytes(length) + content[at + length :],
        lambda: content[:at] + bytes(len(content) - at),
        lambda: content[:at] + content[at // 2 :],
    )
    return chance.choice(ways)()


FILES = ("metadata.csv", "metadata.jsonl", "a.txt")


def damage_many(data, name, number, seed):
    write_images(data, *(f"{letter}.png" for letter in "abcd"))
    (data / "b.txt").write_text("own")
    whole_file, chance = metadata_of(name), random.Random(seed)
    for _ in range(number):
        content = damaged(whole_file, chance)
        look_at(data, name, damaged(content, chance) if content and chance.random() < 0.5 else content)


@pytest.mark.parametrize("name", FILES)
def test_damaged_text_is_read_or_one_error_that_names_it(data, name):
    damage_many(data, name, 12, name)


@pytest.mark.proof
@pytest.mark.parametrize("name", FILES)
def test_hundreds_of_damaged_texts_are_read_or_one_error_that_names_them(data, name):
    damage_many(data, name, 400, f"many {name}")
