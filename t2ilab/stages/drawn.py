"""The same prompts from the same noise, drawn with several finished models, each image judged where it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ilab.artifact import load
from t2ilab.build import build
from t2ilab.data import scenes
from t2ilab.eval.grid import to_arrays

PROMPTS = 8  # rows of a table of images


@dataclass(frozen=True)
class Cell:
    """A generated image and whether it shows what its prompt asks for; None where nobody can tell."""

    image: np.ndarray
    right: bool | None


def prompts_of(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Prompts that show what each step was for: some of every data set, in order, none twice."""
    asked: list[list[str]] = []
    for manifest in manifests:
        own = build(manifest["data"]).preview_prompts()
        if own not in asked:
            asked.append(own)
    share = -(-PROMPTS // max(1, len(asked)))
    return list(dict.fromkeys(prompt for own in asked for prompt in own[:share]))[:PROMPTS]


def drawn(folder: Path, prompts: Sequence[str], seed: int) -> list[Cell]:
    """One image of each prompt by the model of a run or export folder, judged where the prompt is a synthetic one."""
    images = to_arrays(load(folder).generate(list(prompts), seed=seed))
    return [Cell(image, right) for image, right in zip(images, judged(images, prompts), strict=True)]


def judged(images: np.ndarray, prompts: Sequence[str]) -> list[bool | None]:
    """Whether each uint8 (h, w, 3) image shows what its prompt asks for; None unless square and of the grammar."""
    wanted = [scenes.parse(prompt) for prompt in prompts]
    square = images.shape[1] == images.shape[2]
    known = [row for row, scene in enumerate(wanted) if scene is not None and square]
    right: dict[int, bool] = {}
    if known:
        found = torch.from_numpy(images[known]).permute(0, 3, 1, 2).contiguous()
        scores = scenes.score_batch([wanted[row] for row in known], found)
        right = {row: bool(score.passed) for row, score in zip(known, scores, strict=True)}
    return [right.get(row) for row in range(len(prompts))]
