"""Comparisons that people made, from local files in the layouts of the published data sets.

    Pick-a-Pic      parquet: caption, jpg_0, jpg_1 (bytes), label_0, label_1 (1, 0, or 0.5 for a tie), has_label
    HPD v2          json: prompt, file_path [2], human_preference [2];  or  prompt, image_path [n], rank [n]
    ImageRewardDB   json or parquet: prompt, generations [n], ranking [n]

Which one a file has is told by its columns; paths of images are relative to the folder, or to `train/` or `test/` in
it. Files whose names begin with val or test are held out; without one `val_share` of the prompts are.
Layouts as their data cards describe them: yuvalkirstain/pickapic_v1, ymhao/HPDv2, THUDM/ImageRewardDB.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ilab.core.folders import local_folder
from t2ilab.data.comparisons import ABSENT, Comparisons, ComparisonSet
from t2ilab.data.decode import CorruptImage, UnsupportedImage, decode, fit, to_rgb, to_tensor
from t2ilab.data.order import counter_hash

SUFFIXES = (".json", ".jsonl", ".parquet")
HELD_OUT = ("val", "test")
FOLDERS = ("", "train", "test", "images")  # in which images lie


@dataclass(frozen=True)
class Compared:
    """One comparison: its prompt, the images as paths or bytes, and their ranks, 0 for the best."""

    prompt: str
    images: tuple[Path | bytes, ...]
    ranks: tuple[int, ...]


@dataclass
class Found:
    """What the files of a folder hold.

    Attributes:
        splits: comparisons of `train` and `val`.
        dropped: how many were not used, by reason.
        layouts: of the files, by name.
    """

    splits: dict[str, list[Compared]] = field(default_factory=lambda: {"train": [], "val": []})
    dropped: Counter[str] = field(default_factory=Counter)
    layouts: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """What was found, used and dropped."""
        used = {name: len(rows) for name, rows in self.splits.items()}
        lines = [f"comparisons: {used['train']} to train, {used['val']} held out"]
        lines += [f"  {name}: {layout}" for name, layout in sorted(self.layouts.items())]
        lines += [f"  dropped {count}: {reason}" for reason, count in sorted(self.dropped.items())]
        return "\n".join(lines)


class PreferenceFiles(ComparisonSet):
    """Comparisons of a folder.

    Args:
        path: the folder; resolution: pixels after resize and centre crop.
        val_share: of prompts that are held out, where no file is.
        batch_size: comparisons of a step.  workers: processes that fetch ahead.

    Raises:
        ValueError: no file that can be read, a layout that nobody knows, or nothing to train on or to hold out.
    """

    def __init__(
        self, *, path: str, resolution: int, val_share: float, batch_size: int, workers: int
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        if not 0 < val_share < 1:
            raise ValueError(f"data.val_share must lie between 0 and 1, got {val_share}")
        folder = local_folder(path, "data.path")
        self.found = scan(folder, val_share)
        for split, rows in self.found.splits.items():
            if not rows:
                raise ValueError(
                    f"data.path={path}: nothing to {'train on' if split == 'train' else 'hold out'}\n"
                    f"{self.found.text()}"
                )
        print(self.found.text(), flush=True)
        width = max(len(row.images) for rows in self.found.splits.values() for row in rows)
        self.train, self.val = (
            Files(self.found.splits[split], resolution, width) for split in ("train", "val")
        )


class Files(Comparisons):
    """Comparisons whose images are files or bytes."""

    def __init__(self, rows: list[Compared], resolution: int, width: int) -> None:
        self.rows, self.resolution, self.width = rows, resolution, width

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Sequence[int]) -> Tensor:
        found = torch.zeros(len(indices), self.width, 3, self.resolution, self.resolution, dtype=torch.uint8)
        for place, index in enumerate(indices):
            for number, image in enumerate(self.rows[int(index)].images):
                data = image if isinstance(image, bytes) else image.read_bytes()
                picture = fit(to_rgb(decode(data).image), self.resolution, self.resolution)
                found[place, number] = to_tensor(picture)
        return found

    def prompts(self, indices: Sequence[int]) -> list[str]:
        return [self.rows[int(index)].prompt for index in indices]

    def ranks(self, indices: Sequence[int]) -> Tensor:
        found = torch.full((len(indices), self.width), ABSENT)
        for place, index in enumerate(indices):
            ranks = self.rows[int(index)].ranks
            found[place, : len(ranks)] = torch.tensor(ranks)
        return found

    def digest(self) -> str:
        made = hashlib.sha256(f"{self.resolution} {self.width}".encode())
        for row in self.rows:
            made.update(repr((row.prompt, row.ranks)).encode())
            for image in row.images:
                made.update(image if isinstance(image, bytes) else image.read_bytes())
        return made.hexdigest()


def scan(folder: Path, val_share: float) -> Found:
    """Every comparison of the files of a folder that has a decision or a tie, and whose images can be read."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"data.path={folder} holds no {', '.join(SUFFIXES)} with comparisons")
    found = Found()
    held_out = any(path.stem.startswith(HELD_OUT) for path in files)
    for path in files:
        for row in rows_of(path):
            layout, read = layout_of(row, path)
            found.layouts[path.name] = layout
            compared = read(row)
            if isinstance(compared, str):
                found.dropped[compared] += 1
                continue
            prompt, images, ranks = compared
            located = [
                image if isinstance(image, bytes) else located_in(folder, path.stem, image)
                for image in images
            ]
            if reason := unusable(located):
                found.dropped[reason] += 1
                continue
            val = path.stem.startswith(HELD_OUT) if held_out else is_held_out(prompt, val_share)
            found.splits["val" if val else "train"].append(
                Compared(prompt, tuple(one for one in located if one is not None), dense(ranks))
            )
    return found


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file.

    Raises:
        ValueError: it is damaged, or of a kind that needs a package that is not there.
    """
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{path}: parquet files need pyarrow: pip install 't2ilab[parquet]', or save the rows as json"
            ) from error
        for batch in parquet.ParquetFile(path).iter_batches(64):
            yield from batch.to_pylist()
        return
    try:
        if path.suffix == ".jsonl":
            yield from (json.loads(line) for line in path.read_text().splitlines() if line.strip())
        else:
            yield from json.loads(path.read_text())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


Read = tuple[str, Sequence[Any], Sequence[float]]


def layout_of(row: Mapping[str, Any], path: Path) -> tuple[str, Any]:
    """The layout that a row has, and what reads it: a comparison, or the reason why it is none."""
    columns = set(row) if isinstance(row, dict) else set()
    for name, (needed, read) in LAYOUTS.items():
        if needed <= columns:
            return name, read
    known = "; ".join(f"{name} ({', '.join(sorted(needed))})" for name, (needed, _) in LAYOUTS.items())
    raise ValueError(f"{path} has the columns {', '.join(sorted(columns))}, wanted those of one of: {known}")


def _pick_a_pic(row: Mapping[str, Any]) -> Read | str:
    if row.get("has_label") is False or row["label_0"] is None:
        return "no label"
    return row["caption"], (row["jpg_0"], row["jpg_1"]), (-row["label_0"], -row["label_1"])


def _hpd_pair(row: Mapping[str, Any]) -> Read | str:
    return row["prompt"], row["file_path"], [-value for value in row["human_preference"]]


def _hpd_ranks(row: Mapping[str, Any]) -> Read | str:
    return row["prompt"], row["image_path"], row["rank"]


def _image_reward(row: Mapping[str, Any]) -> Read | str:
    return row["prompt"], row["generations"], row["ranking"]


LAYOUTS: dict[str, tuple[set[str], Any]] = {
    "Pick-a-Pic": ({"caption", "jpg_0", "jpg_1", "label_0", "label_1"}, _pick_a_pic),
    "HPD v2 pairs": ({"prompt", "file_path", "human_preference"}, _hpd_pair),
    "HPD v2 rankings": ({"prompt", "image_path", "rank"}, _hpd_ranks),
    "ImageRewardDB": ({"prompt", "generations", "ranking"}, _image_reward),
}


def located_in(folder: Path, rows: str, name: str) -> Path | None:
    """The file of an image, or None; first in the folder that is called as the file of its row."""
    places = (folder / one / name for one in ("", rows, *FOLDERS))
    return next((place for place in places if place.is_file()), None)


def unusable(images: Sequence[Path | bytes | None]) -> str:
    """Why the images of a comparison cannot be used, or ""."""
    if len(images) < 2:
        return "fewer than two images"
    if any(image is None for image in images):
        return "an image is missing"
    for image in images:
        try:
            decode(image if isinstance(image, bytes) else image.read_bytes())  # type: ignore[union-attr]
        except (CorruptImage, UnsupportedImage, OSError):
            return "an image cannot be read"
    return ""


def dense(values: Sequence[float]) -> tuple[int, ...]:
    """Ranks from 0, of any numbers of which less is better."""
    order = sorted(set(values))
    return tuple(order.index(value) for value in values)


def is_held_out(prompt: str, share: float) -> bool:
    """Whether all comparisons of a prompt are held out: a function of its text."""
    return counter_hash(prompt) / 2**128 < share
