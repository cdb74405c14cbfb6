"""What REPA aligns with: python benchmarks/features.py docs/lecture/features.png [OVERRIDE ...]

Images of the default run's data above the features that `terms=[repa]` wants early hidden states to predict: one
vector per patch, whose three principal components over all patches are shown as red, green and blue. Patches of one
colour mean the same to the encoder: what lies where, without the pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from figures import save
from torch import Tensor

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.eval.grid import to_arrays

IMAGES, FITTED = 8, 512


def as_colours(features: Tensor) -> Tensor:
    """The three principal components of (n, N, d) vectors, each spread over [0, 1]: (n, N, 3)."""
    flat = features.flatten(0, 1)
    _, _, directions = torch.pca_lowrank(flat, q=3, niter=8)
    found = (flat - flat.mean(0)) @ directions
    low, high = torch.quantile(found[:50_000], torch.tensor([0.02, 0.98]), dim=0)
    return ((found - low) / (high - low)).clamp(0, 1).unflatten(0, features.shape[:2])


@torch.no_grad()
def draw(out: Path, overrides: list[str]) -> None:
    config = composition.checked(["terms=[repa]", *overrides])
    encoder = build(config["terms"]["repa"]["encoder"])().eval()
    source = build(config["data"]).train
    images = source.images(range(FITTED))
    torch.manual_seed(0)  # of pca_lowrank
    colours = as_colours(torch.cat([encoder(part.float() / 127.5 - 1) for part in images.split(64)]))
    side = round(colours.shape[1] ** 0.5)
    figure, panels = plt.subplots(2, IMAGES, figsize=(10.5, 2.9), layout="constrained")
    for column in range(IMAGES):
        panels[0, column].imshow(to_arrays(images[column : column + 1])[0])
        panels[1, column].imshow(colours[column].view(side, side, 3), interpolation="nearest")
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    panels[0, 0].set_ylabel("image")
    panels[1, 0].set_ylabel("features")
    save(figure, out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2:])
