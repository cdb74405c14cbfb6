"""Files of numbers, a row for each step: a row is added, what a stopped run left half-written is cut off."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from t2ilab.files import whole_file


def append_row(path: Path, row: dict[str, float]) -> None:
    """Adds a row. What has no column yet (a term that came in later) gets one, blank in the rows before."""
    columns = _widened(path, list(row))
    with path.open("a", newline="") as file:
        cells = [_cell(row[name]) if name in row else "" for name in columns]
        csv.writer(file, lineterminator="\n").writerow(cells)


def _widened(path: Path, names: list[str]) -> list[str]:
    """The columns of the file, after it was given those of `names` that it lacked."""
    columns: list[str] = []
    if path.is_file():
        with path.open(newline="") as file:
            columns = next(csv.reader(file), [])
    new = [name for name in names if name not in columns]
    if new:
        rows = path.read_text().splitlines()[1:] if columns else []
        lines = [",".join([*columns, *new]), *(row + "," * len(new) for row in rows)]
        with whole_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))
    return columns + new


def _cell(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def keep_rows(path: Path, steps_done: int) -> None:
    """Cuts off the rows after `steps_done` and everything that was half-written when the run stopped."""
    if not path.is_file():
        return
    header, *lines = path.read_text().splitlines(keepends=True) or [""]
    if not header.endswith("\n"):
        path.unlink()
        return
    columns = header.count(",")
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == columns]
    kept = [line for line in whole if int(line.split(",")[0]) <= steps_done]
    with whole_file(path) as temporary:
        temporary.write_text("".join([header, *kept]))
