"""`data=preferences`: comparisons that people made, from local files in the layouts of published data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2ilab.core.folders import local_folder
from t2ilab.data.comparison_source import ABSENT, Comparisons
from t2ilab.data.comparisons import ComparisonSet
from t2ilab.data.decode import decode, fit, to_rgb, to_tensor
from t2ilab.data.preference_files import scan
from t2ilab.data.preference_found import Compared


class PreferenceFiles(ComparisonSet):
    """Comparisons of a folder.

    Args:
        path: the folder; resolution: pixels after resize and centre crop.
        val_share: of prompts that are held out, where no file is.
        min_confidence: comparisons with less agreement among annotators are dropped, where it is given (HPD v3).
        batch_size: comparisons of a step.  workers: processes that fetch ahead.

    Raises:
        ValueError: no file that can be read, a layout that nobody knows, or nothing to train on or to hold out.
    """

    def __init__(
        self,
        *,
        path: str,
        resolution: int,
        val_share: float,
        min_confidence: float = 0.0,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        if not 0 < val_share < 1:
            raise ValueError(f"data.val_share must lie between 0 and 1, got {val_share}")
        folder = local_folder(path, "data.path")
        self.found = scan(folder, val_share, min_confidence)
        for split, rows in self.found.splits.items():
            if not rows:
                raise ValueError(
                    f"data.path={path}: nothing to {'train on' if split == 'train' else 'hold out'}\n"
                    f"{self.found.text()}"
                )
        width = max(len(row.images) for rows in self.found.splits.values() for row in rows)
        self.train, self.val = (
            Files(self.found.splits[split], resolution, width) for split in ("train", "val")
        )

    def report(self) -> Any:
        return self.found


class Files(Comparisons):
    """Comparisons whose images are stored somewhere."""

    def __init__(self, rows: list[Compared], resolution: int, width: int) -> None:
        self.rows, self.resolution, self.width = rows, resolution, width

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Sequence[int]) -> Tensor:
        found = torch.zeros(len(indices), self.width, 3, self.resolution, self.resolution, dtype=torch.uint8)
        for place, index in enumerate(indices):
            for number, image in enumerate(self.rows[int(index)].images):
                small = fit(to_rgb(decode(image.read()).image), self.resolution, self.resolution)
                found[place, number] = to_tensor(small)
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
        content = [(row.prompt, row.ranks, [image.digest for image in row.images]) for row in self.rows]
        return hashlib.sha256(repr((self.resolution, self.width, content)).encode()).hexdigest()
