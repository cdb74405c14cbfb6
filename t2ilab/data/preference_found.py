"""What a look at files of comparisons has found: which are used, which are not and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from t2ilab.data.parquet import Cell


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
