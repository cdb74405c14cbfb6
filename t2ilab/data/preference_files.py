"""What the files of a folder say of comparisons that people made, in the layouts of `preference_layouts.py`.

Files are .json, .jsonl or .parquet, and images lie in cells of the parquet files or are named by paths relative to
the folder, or to `train/`, `test/` or `images/` in it. Files whose names or folders say val or test are held out;
without one `val_share` of the prompts are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

from t2ilab.data import parquet
from t2ilab.data.decode import CorruptImage, UnsupportedImage, decode
from t2ilab.data.order import counter_hash
from t2ilab.data.parquet import Cell
from t2ilab.data.preference_found import Compared, Found, Stored
from t2ilab.data.preference_layouts import LAYOUTS, Layout, Said, layout_of
from t2ilab.data.verify import watched

Item = TypeVar("Item")
AT_ONCE = 256  # images and comparisons that are looked at before the first of them is taken
SUFFIXES = (".json", ".jsonl", ".parquet")
HELD_OUT = ("val", "test")  # beginnings of file names
HELD_OUT_WORDS = {"val", "valid", "validation", "test"}  # anywhere in names of files and folders
FOLDERS = ("", "train", "test", "images")  # in which images lie


@dataclass
class Gathered:
    """A comparison on its way: its images, or why one of them cannot be used, once looked at, and what they cost."""

    prompt: str
    images: list[Future[Stored | str]] = field(default_factory=list)
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
    with ThreadPoolExecutor() as pool:
        look = Look(folder, pool)
        found, named = look.found, any(map(look.says_held_out, files))
        for held_out, one in watched(ahead(look.all(files)), "comparisons"):
            images = [image.result() for image in one.images]
            if reason := unusable(one, images, min_confidence):
                found.dropped[reason] += 1
                continue
            val = held_out if named else is_held_out(one.prompt, val_share)
            usable = tuple(image for image in images if isinstance(image, Stored))
            found.splits["val" if val else "train"].append(Compared(one.prompt, usable, dense(one.costs)))
    if not found.layouts:
        name, columns = next(iter(found.ignored.items()))
        raise ValueError(
            f"{folder / name} has {columns}, wanted those of one of: {'; '.join(dict.fromkeys(map(str, LAYOUTS)))}"
        )
    return found


class Look:
    """Goes through all files of a folder, while the threads of a pool look at the images.

    Attributes:
        found: what there is; the comparisons that are used are for the caller to add.
    """

    def __init__(self, folder: Path, pool: Executor) -> None:
        self.folder, self.pool, self.found = folder, pool, Found(folder)
        self.slots = BoundedSemaphore(AT_ONCE)  # images in memory
        self.groups: dict[tuple[bool, str], Gathered] = {}  # of rows of one image each, from all files

    def all(self, files: Sequence[Path]) -> Iterator[tuple[bool, Gathered]]:
        """Every comparison, and whether a name says that it is held out; last those that several rows make up."""
        for path in files:
            held_out = self.says_held_out(path)
            for one in self.comparisons(path, held_out):
                yield held_out, one
        for (held_out, _), one in self.groups.items():
            yield held_out, one

    def says_held_out(self, path: Path) -> bool:
        """Whether the name of a file, or of a folder that it lies in, says that it is held out."""
        inside = path.relative_to(self.folder)
        words = set(re.split(r"[^a-z]+", str(inside.with_suffix("")).lower()))
        return inside.stem.startswith(HELD_OUT) or bool(words & HELD_OUT_WORDS)

    def comparisons(self, path: Path, held_out: bool) -> Iterator[Gathered]:
        """The comparisons of a file that are a row each; counts all, and the rows that say nothing."""
        name = str(path.relative_to(self.folder))
        for number, row in enumerate(rows_of(path)):
            layout = layout_of(row)
            if layout is None:
                columns = ", ".join(sorted(row)) if isinstance(row, dict) else "rows that are no objects"
                self.found.ignored[name] = f"the columns {columns}"
                return
            said = told(layout, row)
            if isinstance(said, str):
                self.found.layouts[name, layout.name] += 1
                self.found.dropped[said] += 1
                continue
            key = None if said.group is None else (held_out, said.group)
            one = self.groups.get(key) if key else None
            self.found.layouts[name, layout.name] += one is None
            one = one or Gathered(said.prompt)
            one.images += self.images(said, row, number, path)
            one.costs, one.confidence = [*one.costs, *said.costs], said.confidence
            if key is None:
                yield one
            else:
                self.groups[key] = one

    def images(
        self, said: Said, row: Mapping[str, Any], number: int, path: Path
    ) -> Iterator[Future[Stored | str]]:
        """The images of a row, or for each why it cannot be used."""
        for column, place in said.places:
            value = parquet.bytes_of(row[column] if place is None else row[column][place])
            self.slots.acquire()
            if isinstance(value, bytes):
                made = self.pool.submit(looked_at, Cell(path, number, column, place), value)
            else:
                made = self.pool.submit(looked_at, located(self.folder, path, value))
            made.add_done_callback(lambda _: self.slots.release())
            yield made


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each given once AT_ONCE further ones have been begun."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > AT_ONCE:
            yield waiting.popleft()
    yield from waiting


def looked_at(where: Path | Cell | None, data: bytes | None = None) -> Stored | str:
    """An image that can be read, or why it cannot be used.

    Args:
        data: its bytes, where they are known; else those of the file.
    """
    if where is None:
        return "an image is missing"
    try:
        known = where.read_bytes() if isinstance(where, Path) else data or b""
        decode(known)
    except (CorruptImage, UnsupportedImage, OSError):
        return "an image cannot be read"
    return Stored(where, hashlib.sha256(known).hexdigest())


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
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # other separators may be in a prompt
            yield from (json.loads(line) for line in lines if line.strip())
        else:
            yield from json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def located(folder: Path, rows: Path, name: object) -> Path | None:
    """The file of an image, or None; first beside its row's file or in the folder that is called like that file."""
    if not isinstance(name, str) or not name:
        return None
    near = (rows.parent / one / name for one in ("", rows.stem, "images"))
    places = (*near, *(folder / one / name for one in (rows.stem, *FOLDERS)))
    return next((place for place in places if place.is_file()), None)


def told(layout: Layout, row: Mapping[str, Any]) -> Said | str:
    """What a row says, or why it says nothing."""
    try:
        said = layout.read(row)
        known = isinstance(said, str) or all(map(math.isfinite, said.costs))
    except TypeError:  # texts in place of numbers
        known = False
    return said if known else "a label is no number"


def unusable(one: Gathered, images: Sequence[Stored | str], min_confidence: float) -> str:
    """Why a comparison cannot be used, or ""."""
    if len(images) < 2:
        return "fewer than two images"
    if faults := [image for image in images if isinstance(image, str)]:
        return faults[0]
    if not (one.prompt and isinstance(one.prompt, str)):
        return "no prompt"
    if one.confidence is not None and one.confidence < min_confidence:
        return f"confidence below data.min_confidence={min_confidence:g}"
    return ""


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks from 0, of any numbers of which less is better."""
    order = sorted(set(values))
    return tuple(order.index(value) for value in values)


def is_held_out(prompt: str, share: float) -> bool:
    """Whether all comparisons of a prompt are held out: a function of its text."""
    return counter_hash(prompt) / 2**128 < share
