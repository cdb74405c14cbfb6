"""The captions of a folder of images: text files beside the images, and Hugging Face metadata files."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from t2ilab.data.report import Drop, Reason

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption")
SIDECAR = "txt"  # the kind of the lines of text files
ANY = "caption"  # the kind of every caption where kinds are not asked for
GIVEN = "data.caption"  # the kind of the caption that the option gives to an image without one


@dataclass
class Captions:
    """What was found.

    Attributes:
        by_image: the captions of each image, by its path relative to the folder.
        kinds: the kind of each of them.
        faults: why an image that has a caption somewhere has none that can be used.
        ignored: captions that belong to no image, or to one that metadata have named before.
    """

    by_image: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, Drop] = field(default_factory=dict)
    ignored: list[Drop] = field(default_factory=list)

    def add(self, image: str, texts: Iterable[str], where: str, kind: str) -> None:
        """Gives an image the captions that it does not have yet; none of them is a fault."""
        texts = [text for text in (" ".join(text.split()) for text in texts) if text]
        if not texts:
            self.faults.setdefault(image, Drop(image, Reason.EMPTY_CAPTION, where))
            return
        known = self.by_image.setdefault(image, [])
        known += [text for text in dict.fromkeys(texts) if text not in known]
        kinds = self.kinds.setdefault(image, [])
        kinds += [kind] * (len(known) - len(kinds))

    def give(self, images: Iterable[str], text: str) -> None:
        """Gives `text` to every image that has no caption; one whose own caption cannot be read keeps its fault."""
        for image in images:
            fault = self.fault(image)
            if fault is not None and fault.reason in (Reason.NO_CAPTION, Reason.EMPTY_CAPTION):
                self.add(image, [text], GIVEN, GIVEN)

    def begin(self, prefix: str) -> None:
        """Puts `prefix` and a space before every caption."""
        for image, texts in self.by_image.items():
            self.by_image[image] = [f"{prefix} {text}" for text in texts]

    def fault(self, image: str) -> Drop | None:
        """Why the image cannot be used for want of a caption, or None."""
        if image in self.by_image:
            return None
        return self.faults.get(image, Drop(image, Reason.NO_CAPTION))


def collect(
    folder: Path, files: list[str], images: set[str], column: str | None, kinds: Collection[str] = ()
) -> Captions:
    """All captions of `images` among `files` (paths relative to `folder`).

    An image takes its metadata row and the lines of its text file; both count where both exist. An empty
    caption beside a good one does no harm.

    Args:
        column: the column of the metadata with captions; None takes `text`, else `caption`.
        kinds: if given, only these: columns of the metadata by name, and "txt", the lines of the text files.
    Raises:
        ValueError: a metadata file that cannot be understood, or a kind that no image has.
    """
    captions = Captions()
    seen: dict[str, str] = {}
    metadata = [path for path in files if PurePosixPath(path).name in METADATA]
    for row in (row for path in metadata for row in _metadata(folder, path, column, kinds)):
        if row.image in seen:
            captions.ignored.append(
                Drop(row.where, Reason.DUPLICATE_PATH, f"{row.image} is also in {seen[row.image]}")
            )
        elif row.image not in images:
            captions.ignored.append(Drop(row.where, Reason.CAPTION_WITHOUT_IMAGE, f"no image {row.image}"))
        else:
            for kind, texts in row.texts.items():
                captions.add(row.image, texts, row.where, kind)
        seen.setdefault(row.image, row.where)
    stems: dict[str, list[str]] = {}
    for image in images:
        stems.setdefault(str(PurePosixPath(image).with_suffix("")), []).append(image)
    for path in files:
        if PurePosixPath(path).suffix.lower() == ".txt" and (not kinds or SIDECAR in kinds):
            _add_sidecar(
                captions,
                folder,
                path,
                sorted(stems.get(str(PurePosixPath(path).with_suffix("")), [])),
                SIDECAR if kinds else ANY,
            )
    lost = set(kinds) - {kind for found in captions.kinds.values() for kind in found}
    if lost:
        raise ValueError(
            f"data.caption_weights.{min(lost)}: no image in {folder} has such a caption; kinds are the columns of "
            f"{' / '.join(METADATA)}, and {SIDECAR} for the lines of text files"
        )
    return captions


def _add_sidecar(captions: Captions, folder: Path, path: str, owners: list[str], kind: str) -> None:
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
        captions.add(image, lines, path, kind)


@dataclass(frozen=True)
class Row:
    """One row of a metadata file: where it stands, the image it names, its captions by kind."""

    where: str
    image: str
    texts: dict[str, list[str]]


def _metadata(folder: Path, path: str, column: str | None, kinds: Collection[str]) -> Iterator[Row]:
    rows = list(_rows(folder / path))
    columns = _columns(rows, folder / path)
    chosen = {kind: kind for kind in kinds if kind in columns}
    if not kinds:
        chosen = {ANY: _caption_column(columns, folder / path, column)}
    for line, row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{folder / path}, line {line}: column file_name must name an image, got {name!r}"
            )
        image = posixpath.normpath(posixpath.join(posixpath.dirname(path), name.replace("\\", "/")))
        texts = {kind: _texts(row.get(name), folder / path, line, name) for kind, name in chosen.items()}
        yield Row(f"{path}:{line}", image, texts)


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


def _columns(rows: list[tuple[int, dict[str, Any]]], path: Path) -> list[str]:
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    if rows and "file_name" not in columns:
        raise ValueError(f"{path} needs a column file_name with paths relative to it; it has {columns}")
    return columns


def _caption_column(columns: list[str], path: Path, column: str | None) -> str:
    wanted = (column,) if column else COLUMNS
    found = [name for name in wanted if name in columns]
    if columns and not found:
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
