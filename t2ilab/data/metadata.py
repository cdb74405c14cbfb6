"""The rows of metadata.jsonl, metadata.csv and metadata.parquet, the form that Hugging Face calls imagefolder.

A file is read whole or not at all: a row that is broken is an error with its file and line, since what stands behind
it may be read as something else.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from t2ilab.data import parquet
from t2ilab.data.naming import Names

METADATA = ("metadata.jsonl", "metadata.csv")
PARQUET = "metadata.parquet"  # is read where pyarrow is installed
FOREIGN = (PARQUET, "metadata.json", "metadata.tsv", "metadata.xlsx")
COLUMNS = ("text", "caption")
ANY = "caption"  # the kind of every caption where kinds are not asked for


@dataclass(frozen=True)
class Row:
    """One row: where it stands (`file:line`), the name it gives, from the folder, and its captions by kind."""

    where: str
    name: str
    texts: dict[str, list[str]]


def is_metadata(path: str) -> bool:
    name = PurePosixPath(path).name
    return name in METADATA or (name == PARQUET and parquet.readable())


def is_foreign(path: str) -> bool:
    """Whether the file looks like metadata of a form, or with a name, that is not read."""
    name = PurePosixPath(path).name.lower()
    return (name in FOREIGN or name in METADATA) and not is_metadata(path)


def remedy(path: str) -> str:
    """What makes foreign metadata readable."""
    if PurePosixPath(path).name == PARQUET:
        return f"{parquet.NEEDED}, or write it as {' or '.join(METADATA)}"
    return f"write it as {' or '.join(METADATA)}"


def rows(folder: Path, path: str, column: str | None, kinds: Collection[str], names: Names) -> Iterator[Row]:
    """The rows of a metadata file.

    Args:
        path: of the file, relative to `folder`.
        column: the one with captions; None takes `text`, else `caption`.
        kinds: columns instead of that one; those that the file lacks are left out.
        names: the images of the folder.
    Raises:
        ValueError: naming file and line.
    """
    place = posixpath.dirname(path)
    found = list(_rows(folder / path, place, names))
    columns = _columns(found, folder / path)
    chosen = {kind: kind for kind in kinds if kind in columns}
    if not kinds:
        chosen = {ANY: _caption_column(columns, folder / path, column)}
    for line, row in found:
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{folder / path}, line {line}: column file_name must name an image, got {name!r}"
            )
        texts = {kind: _texts(row.get(name), folder / path, line, name) for kind, name in chosen.items()}
        yield Row(f"{path}:{line}", _named(place, name, names), texts)


def _named(place: str, name: str, names: Names) -> str:
    """The path from the folder that a name in a file in `place` means; backslashes divide, if the name has none."""
    plain = posixpath.normpath(posixpath.join(place, name))
    if "\\" not in name or names.image(plain):
        return plain
    forward = posixpath.normpath(posixpath.join(place, name.replace("\\", "/")))
    return forward if names.image(forward) else posixpath.join(place, name)


def _rows(path: Path, place: str, names: Names) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with the numbers of the lines where they begin."""
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if path.name == PARQUET:
        yield from enumerate(parquet.rows_of(path, parquet.plain_columns(path), at_once=4096), 1)
        return
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = _checked_lines(file, path)
            if path.suffix == ".csv":
                yield from _csv_rows(lines, path, place, names)
            else:
                yield from _json_rows(lines, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def _checked_lines(file: IO[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.isascii() and any("\udc80" <= character <= "\udcff" for character in line):
            raise ValueError(f"{path}, line {number}: not UTF-8; save the file as UTF-8")
        if "\0" in line:
            raise ValueError(f"{path}, line {number}: NUL characters; the file is not whole or not UTF-8")
        yield line


def _json_rows(lines: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also of numbers and nesting without end
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line.strip()[:60]}")
        yield number, row


def _csv_rows(
    lines: Iterator[str], path: Path, place: str, names: Names
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader, columns = csv.reader(lines, strict=True), None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {_advice(error)}") from error
        if not fields:
            continue
        if columns is None:
            columns = fields
            twice = {column for column in columns if column and columns.count(column) > 1}
            if twice:
                raise ValueError(f"{path}, line {number}: two columns {min(twice)}")
            continue
        if len(fields) != len(columns):
            more = "more" if len(fields) > len(columns) else "fewer"
            raise ValueError(f"{path}, line {number}: {more} fields than columns; quote the caption")
        swallowed = _swallowed(fields, place, names) if reader.line_num > number else ""
        if swallowed:
            raise ValueError(
                f"{path}, line {number}: a quote is not closed, and the row of {swallowed} stands in it"
            )
        yield number, dict(zip(columns, fields, strict=True))


def _advice(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is never closed"
    if "expected after" in str(error):
        return f"{error}; a quote within quotes is written twice, and one that is open ends with its field"
    return str(error)


def _swallowed(fields: list[str], place: str, names: Names) -> str:
    """The image whose row is part of a field of several lines, or ""."""
    starts = [line.partition(",")[0] for field in fields for line in field.splitlines()[1:] if "," in line]
    found = [names.image(posixpath.normpath(posixpath.join(place, start))) for start in starts if start]
    return next((image for image in found if image), "")


def _columns(found: list[tuple[int, dict[str, Any]]], path: Path) -> list[str]:
    columns = list(dict.fromkeys(name for _, row in found for name in row))
    if found and "file_name" not in columns:
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


def _texts(value: object, path: Path, line: int, column: str) -> list[str]:
    """The caption(s) of one cell: a text, a list of texts, or nothing."""
    texts: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{path}, line {line}: column {column} must hold a text or a list of texts, got {value!r}"
        )
    return texts
