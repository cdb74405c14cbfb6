"""Parquet files through pyarrow, which is an extra of this package: rows in order, and single cells later on.

Images stand in cells as bytes, or as Hugging Face's `datasets` writes them, {"bytes": ..., "path": ...}. They are not
kept in memory: a `Cell` names its place, and is read from the row group that it lies in.
"""

from __future__ import annotations

import importlib.util
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

NEEDED = "needs pyarrow: pip install 't2ilab[parquet]'"


def readable() -> bool:
    """Whether pyarrow is installed."""
    try:
        return importlib.util.find_spec("pyarrow") is not None
    except ValueError:  # a module that was taken out of sys.modules by name
        return False


def open_parquet(path: Path) -> Any:
    """pyarrow's view of a file.

    Raises:
        ValueError: pyarrow is not installed, or the file is damaged.
    """
    if not readable():
        raise ValueError(f"{path} {NEEDED}")
    from pyarrow import ArrowException, parquet

    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def rows_of(path: Path, columns: Sequence[str] | None = None, at_once: int = 64) -> Iterator[dict[str, Any]]:
    """The rows of a file as dicts.

    Args:
        columns: those to read; None for all.
        at_once: rows in memory.

    Raises:
        ValueError: as `open_parquet`, also in the middle of a file.
    """
    file = open_parquet(path)
    from pyarrow import ArrowException

    try:
        for batch in file.iter_batches(at_once, columns=None if columns is None else list(columns)):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def plain_columns(path: Path) -> list[str]:
    """Names of the columns that hold texts, numbers or lists of them, and no images."""
    from pyarrow import types

    schema = open_parquet(path).schema_arrow
    heavy = (types.is_binary, types.is_large_binary, types.is_struct)
    return [field.name for field in schema if not any(is_heavy(field.type) for is_heavy in heavy)]


@dataclass(frozen=True)
class Cell:
    """Bytes in a parquet file.

    Attributes:
        path, row, column: where; place: in the cell's list, or None.
    """

    path: Path
    row: int
    column: str
    place: int | None = None

    def read(self) -> bytes:
        """Raises ValueError where the file has changed and holds no bytes there."""
        ends = row_group_ends(self.path)
        group = bisect_right(ends, self.row)
        values = _column(self.path, group, self.column)
        value = values[self.row - (ends[group - 1] if group else 0)].as_py()
        found = bytes_of(value if self.place is None else value[self.place])
        if not isinstance(found, bytes):
            raise ValueError(
                f"{self.path}, row {self.row}: no bytes in column {self.column}, as there were before"
            )
        return found


def bytes_of(value: object) -> Any:
    """What an image's cell holds: bytes, the name of a file, or None."""
    return (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value


@lru_cache(maxsize=256)
def row_group_ends(path: Path) -> list[int]:
    """For each row group of a file the number of the row behind it."""
    metadata = open_parquet(path).metadata
    return list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))


@lru_cache(maxsize=4)
def _column(path: Path, group: int, column: str) -> Any:
    return open_parquet(path).read_row_group(group, columns=[column]).column(column)
