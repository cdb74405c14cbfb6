"""The captions of a folder of images: text files beside the images, and Hugging Face metadata files."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from t2ilab.data.report import Drop, Reason

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption")


@dataclass
class Captions:
    """What was found.

    Attributes:
        by_image: the captions of each image, by its path relative to the folder.
        faults: why an image that has a caption somewhere has none that can be used.
        ignored: captions that belong to no image, or to one that metadata have named before.
    """

    by_image: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, Drop] = field(default_factory=dict)
    ignored: list[Drop] = field(default_factory=list)

    def add(self, image: str, texts: Iterable[str], where: str) -> None:
        """Gives an image the captions that it does not have yet; none of them is a fault."""
        texts = [text for text in (" ".join(text.split()) for text in texts) if text]
        if not texts:
            self.faults.setdefault(image, Drop(image, Reason.EMPTY_CAPTION, where))
            return
        known = self.by_image.setdefault(image, [])
        known += [text for text in dict.fromkeys(texts) if text not in known]

    def fault(self, image: str) -> Drop | None:
        """Why the image cannot be used for want of a caption, or None."""
        if image in self.by_image:
            return None
        return self.faults.get(image, Drop(image, Reason.NO_CAPTION))


def collect(folder: Path, files: list[str], images: set[str], column: str | None) -> Captions:
    """All captions of `images` among `files` (paths relative to `folder`).

    An image takes its metadata row and the lines of its text file; both count where both exist. An empty
    caption beside a good one does no harm.

    Raises:
        ValueError: a metadata file that cannot be understood.
    """
    captions = Captions()
    seen: dict[str, str] = {}
    metadata = [path for path in files if PurePosixPath(path).name in METADATA]
    for row in (row for path in metadata for row in _metadata(folder, path, column)):
        if row.image in seen:
            captions.ignored.append(
                Drop(row.where, Reason.DUPLICATE_PATH, f"{row.image} is also in {seen[row.image]}")
            )
        elif row.image not in images:
            captions.ignored.append(Drop(row.where, Reason.CAPTION_WITHOUT_IMAGE, f"no image {row.image}"))
        else:
            captions.add(row.image, row.texts, row.where)
        seen.setdefault(row.image, row.where)
    stems: dict[str, list[str]] = {}
    for image in images:
        stems.setdefault(str(PurePosixPath(image).with_suffix("")), []).append(image)
    for path in files:
        if PurePosixPath(path).suffix.lower() == ".txt":
            _add_sidecar(
                captions, folder, path, sorted(stems.get(str(PurePosixPath(path).with_suffix("")), []))
            )
    return captions


def _add_sidecar(captions: Captions, folder: Path, path: str, owners: list[str]) -> None:
    if not owners:
        captions.ignored.append(Drop(path, Reason.CAPTION_WITHOUT_IMAGE))
        return
    try:
        lines = (folder / path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        for image in owners:
            captions.faults[image] = Drop(image, Reason.UNREADABLE_CAPTION, f"{path}: {error}")
        return
    for image in owners:
        captions.add(image, lines, path)


@dataclass(frozen=True)
class Row:
    """One row of a metadata file: where it stands, the image it names, its captions."""

    where: str
    image: str
    texts: list[str]


def _metadata(folder: Path, path: str, column: str | None) -> Iterator[Row]:
    rows = list(_rows(folder / path))
    chosen = _caption_column(rows, folder / path, column)
    for line, row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{folder / path}, line {line}: column file_name must name an image, got {name!r}"
            )
        image = posixpath.normpath(posixpath.join(posixpath.dirname(path), name.replace("\\", "/")))
        yield Row(f"{path}:{line}", image, _texts(row.get(chosen), folder / path, line, chosen))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a metadata file with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    if None in row:
                        raise ValueError(
                            f"{path}, line {reader.line_num}: more fields than columns; quote the caption"
                        )
                    yield reader.line_num, row
                return
            for line, text in enumerate(file, 1):
                if text.strip():
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise ValueError(
                            f"{path}, line {line}: expected a JSON object, got {text.strip()[:60]}"
                        )
                    yield line, row
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {line}: not JSON ({error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _caption_column(rows: list[tuple[int, dict[str, Any]]], path: Path, column: str | None) -> str:
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    if rows and "file_name" not in columns:
        raise ValueError(f"{path} needs a column file_name with paths relative to it; it has {columns}")
    wanted = (column,) if column else COLUMNS
    found = [name for name in wanted if name in columns]
    if rows and not found:
        raise ValueError(
            f"{path} has no caption column {' or '.join(wanted)}; set data.caption_column to one of {columns}"
        )
    return found[0] if found else wanted[0]


def _texts(value: Any, path: Path, line: int, column: str) -> list[str]:
    """The caption(s) of one cell: a text, a list of texts, or nothing."""
    texts = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{path}, line {line}: column {column} must hold a text or a list of texts, got {value!r}"
        )
    return texts
