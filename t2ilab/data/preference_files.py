"""What the files of a folder say of comparisons that people made, in the layouts of `preference_layouts.py`.

Files are .json, .jsonl or .parquet, and images lie in cells of the parquet files or are named by paths relative to
the folder, or to `train/`, `test/` or `images/` in it. Files whose names or folders say val or test are held out;
without one `val_share` of the prompts are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from t2ilab.data import parquet
from t2ilab.data.decode import CorruptImage, UnsupportedImage, decode
from t2ilab.data.order import counter_hash
from t2ilab.data.parquet import Cell
from t2ilab.data.preference_layouts import LAYOUTS, Said, layout_of

SUFFIXES = (".json", ".jsonl", ".parquet")
HELD_OUT = ("val", "test")  # beginnings of file names
HELD_OUT_WORDS = {"val", "valid", "validation", "test"}  # anywhere in names of files and folders
FOLDERS = ("", "train", "test", "images")  # in which images lie


@dataclass(frozen=True)
class Stored:
    """An image: a file or a cell, with the sha256 of its bytes."""

    place: Path | Cell
    digest: str

    def read(self) -> bytes:
        return self.place.read() if isinstance(self.place, Cell) else self.place.read_bytes()


@dataclass(frozen=True)
class Compared:
    """One comparison: its prompt, the images, and their ranks, 0 for the best."""

    prompt: str
    images: tuple[Stored, ...]
    ranks: tuple[int, ...]


@dataclass
class Found:
    """What the files of a folder hold; comparisons found = used + dropped.

    Attributes:
        splits: comparisons of `train` and `val`.
        dropped: how many were not used, by reason.
        layouts: of the files, by name, with their comparisons.
        ignored: files in none of the layouts, with their columns.
    """

    folder: Path
    splits: dict[str, list[Compared]] = field(default_factory=lambda: {"train": [], "val": []})
    dropped: Counter[str] = field(default_factory=Counter)
    layouts: Counter[tuple[str, str]] = field(default_factory=Counter)
    ignored: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> tuple[int, int]:
        """Pairs of images that are used: those of which one was preferred, and ties."""
        rows = [row for split in self.splits.values() for row in split]
        both = [one != other for row in rows for one, other in combinations(row.ranks, 2)]
        return sum(both), len(both) - sum(both)

    @property
    def used(self) -> int:
        """Comparisons that training or validation may see."""
        return sum(map(len, self.splits.values()))

    @property
    def found(self) -> int:
        """All comparisons."""
        return self.used + sum(self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """All numbers."""
        decided, ties = self.pairs()
        return {
            "path": str(self.folder),
            "found": self.found,
            "used": {name: len(rows) for name, rows in self.splits.items()},
            "pairs": {"decided": decided, "ties": ties},
            "dropped": dict(self.dropped.most_common()),
            "files": {
                name: {"layout": layout, "comparisons": n} for (name, layout), n in self.layouts.items()
            },
            "ignored": self.ignored,
        }

    def notes(self) -> list[str]:
        """What else there is to know of those that are used, a line each."""
        decided, ties = self.pairs()
        return [
            f"used: train {len(self.splits['train'])}, held out {len(self.splits['val'])}; "
            f"pairs: {decided} decided, {ties} ties",
            *(f"{name}: {layout}, {n}" for (name, layout), n in sorted(self.layouts.items())),
            *(f"ignored: {name} ({columns})" for name, columns in self.ignored.items()),
        ]

    def text(self) -> str:
        """A few lines for the terminal."""
        dropped = self.found - self.used
        lines = [f"{self.folder}: {self.found} comparisons found = {self.used} used + {dropped} dropped"]
        lines += [f"  {note}" for note in self.notes()]
        return "\n".join(lines + [f"  dropped: {n} {reason}" for reason, n in self.dropped.most_common()])


@dataclass
class Gathered:
    """A comparison on its way: its images, or why one of them cannot be used, and what they cost."""

    prompt: str
    images: list[Stored | str] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    confidence: float | None = None


def scan(folder: Path, val_share: float, min_confidence: float = 0.0) -> Found:
    """Every comparison of the files of a folder that has a decision or a tie, and whose images can be read.

    Raises:
        ValueError: there is no such file, or none in a layout that is known.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"data.path={folder} holds no {', '.join(SUFFIXES)} with comparisons")
    found, sets = Found(folder), {path: says_held_out(path.relative_to(folder)) for path in files}
    groups: dict[bool, dict[str, Gathered]] = {
        False: {},
        True: {},
    }  # of rows of one image each, from all files
    rows = (
        (sets[path], one) for path in files for one in comparisons_of(path, folder, found, groups[sets[path]])
    )
    for named, one in chain(rows, ((val, one) for val in groups for one in groups[val].values())):
        if reason := unusable(one, min_confidence):
            found.dropped[reason] += 1
            continue
        val = named if any(sets.values()) else is_held_out(one.prompt, val_share)
        images = tuple(image for image in one.images if isinstance(image, Stored))
        found.splits["val" if val else "train"].append(Compared(one.prompt, images, dense(one.costs)))
    if not found.layouts:
        name, columns = next(iter(found.ignored.items()))
        raise ValueError(
            f"{folder / name} has {columns}, wanted those of one of: {'; '.join(dict.fromkeys(map(str, LAYOUTS)))}"
        )
    return found


def comparisons_of(path: Path, folder: Path, found: Found, groups: dict[str, Gathered]) -> Iterator[Gathered]:
    """The comparisons of a file; counts them, and those of its rows that say nothing.

    Args:
        groups: gets those that several rows make up, by what the rows share.
    """
    name = str(path.relative_to(folder))
    for number, row in enumerate(rows_of(path)):
        layout = layout_of(row)
        if layout is None:
            columns = ", ".join(sorted(row)) if isinstance(row, dict) else "rows that are no objects"
            found.ignored[name] = f"the columns {columns}"
            return
        said = layout.read(row)
        new = isinstance(said, str) or said.group is None or said.group not in groups
        found.layouts[name, layout.name] += new
        if isinstance(said, str):
            found.dropped[said] += 1
            continue
        one = (
            Gathered(said.prompt)
            if said.group is None
            else groups.setdefault(said.group, Gathered(said.prompt))
        )
        one.images += images_of(said, row, number, path, folder)
        one.costs, one.confidence = [*one.costs, *said.costs], said.confidence
        if said.group is None:
            yield one


def images_of(
    said: Said, row: Mapping[str, Any], number: int, path: Path, folder: Path
) -> Iterable[Stored | str]:
    """The images of a row, or for each why it cannot be used."""
    for column, place in said.places:
        value = row[column] if place is None else row[column][place]
        value = parquet.bytes_of(value)
        where = (
            Cell(path, number, column, place) if isinstance(value, bytes) else located(folder, path, value)
        )
        if where is None:
            yield "an image is missing"
            continue
        try:
            data = value if isinstance(value, bytes) else where.read_bytes()  # type: ignore[union-attr]
            decode(data)
        except (CorruptImage, UnsupportedImage, OSError):
            yield "an image cannot be read"
            continue
        yield Stored(where, hashlib.sha256(data).hexdigest())


def rows_of(path: Path) -> Iterator[Any]:
    """The rows of a file.

    Raises:
        ValueError: it is damaged, or of a kind that needs a package that is not there.
    """
    if path.suffix == ".parquet":
        yield from parquet.rows_of(path)
        return
    try:
        if path.suffix == ".jsonl":
            yield from (json.loads(line) for line in path.read_text().splitlines() if line.strip())
        else:
            yield from json.loads(path.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def located(folder: Path, rows: Path, name: Any) -> Path | None:
    """The file of an image, or None; first beside its row's file or in the folder that is called like that file."""
    if not isinstance(name, str) or not name:
        return None
    near = (rows.parent / one / name for one in ("", rows.stem, "images"))
    places = (*near, *(folder / one / name for one in (rows.stem, *FOLDERS)))
    return next((place for place in places if place.is_file()), None)


def unusable(one: Gathered, min_confidence: float) -> str:
    """Why a comparison cannot be used, or ""."""
    if len(one.images) < 2:
        return "fewer than two images"
    if faults := [image for image in one.images if isinstance(image, str)]:
        return faults[0]
    if not one.prompt:
        return "no prompt"
    if one.confidence is not None and one.confidence < min_confidence:
        return f"confidence below data.min_confidence={min_confidence:g}"
    return ""


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks from 0, of any numbers of which less is better."""
    order = sorted(set(values))
    return tuple(order.index(value) for value in values)


def says_held_out(path: Path) -> bool:
    """Whether the name of a file, or of a folder that it lies in, says that it is held out."""
    words = set(re.split(r"[^a-z]+", str(path.with_suffix("")).lower()))
    return path.stem.startswith(HELD_OUT) or bool(words & HELD_OUT_WORDS)


def is_held_out(prompt: str, share: float) -> bool:
    """Whether all comparisons of a prompt are held out: a function of its text."""
    return counter_hash(prompt) / 2**128 < share
