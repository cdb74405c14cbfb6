"""The same prompts from the same noise, drawn with several finished models, each image judged where it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ilab.build import build
from t2ilab.data import scenes
from t2ilab.eval.grid import read_grid, to_arrays
from t2ilab.eval.intervals import wilson
from t2ilab.eval.report_content import Final
from t2ilab.eval.result import Metric
from t2ilab.export.denoiser import load
from t2ilab.export.reader import refuse_foreign

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
        refuse_foreign({"data": manifest["data"]}, (), "a run's export")
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
    found = {row: scenes.parse(prompt) for row, prompt in enumerate(prompts)}
    square = images.shape[1] == images.shape[2]
    wanted = {row: scene for row, scene in found.items() if scene is not None and square}
    right: dict[int, bool] = {}
    if wanted:
        pixels = torch.from_numpy(images[list(wanted)]).permute(0, 3, 1, 2).contiguous()
        scores = scenes.score_batch(list(wanted.values()), pixels)
        right = {row: bool(score.passed) for row, score in zip(wanted, scores, strict=True)}
    return [right.get(row) for row in range(len(prompts))]


def final_images(preview: Path) -> list[Final]:
    """The images of a preview grid, each with its prompt and whether it shows that."""
    grid = read_grid(preview)
    prompts = list(grid.captions) or [""] * len(grid.images)
    rights = judged(grid.images, prompts)
    return [Final(*each) for each in zip(prompts, grid.images, rights, strict=True)][:PROMPTS]


def untrained(first: Path) -> Metric | None:
    """Prompt accuracy of the first preview, if that is of a network before its first step."""
    grid = read_grid(first)
    if int(grid.info.get("step", -1)) != 0 or not grid.captions:
        return None
    return share(judged(grid.images, list(grid.captions)), "prompts of the preview")


def share(rights: Sequence[bool | None], what: str) -> Metric | None:
    """The share that is right of those that could be judged, with Wilson's interval; None if none could."""
    known = [right for right in rights if right is not None]
    if not known:
        return None
    low, high = wilson(sum(known), len(known))
    return Metric(sum(known) / len(known), low, high, len(known), f"Wilson over {what}", "share", True)
