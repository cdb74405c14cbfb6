"""What the features that REPA aligns with consist of: python benchmarks/aligned_features.py [OVERRIDE ...]

Features of 1,500 images of the default run's data, of the encoder of `terms=[repa]`. Prints how much of their
variance lies between images, so that a network that knows only what the image is of has it, and how much lies
between the places of one image, which is what is left to align with; and how much of the first kind the condition
alone predicts, by ridge regression on its pooled vector, on images that were not fitted.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.data.scenes import SceneSource

IMAGES, FITTED, BATCH, RIDGE = 1500, 1000, 100, 1e-2


def features(encoder: torch.nn.Module, source: SceneSource) -> Tensor:
    """Patch vectors of all images, (n, N, d)."""
    images = source.images(range(IMAGES)).float() / 127.5 - 1
    return torch.cat([encoder(batch) for batch in images.split(BATCH)])


def explained(inputs: Tensor, targets: Tensor) -> float:
    """Share of the targets' variance that ridge regression on the inputs predicts, on what was not fitted."""
    inputs, targets = F.pad(inputs, (0, 1), value=1.0).double(), targets.double()
    known, wanted = inputs[:FITTED], targets[:FITTED]
    gram = known.mT @ known / FITTED + RIDGE * torch.eye(inputs.shape[1], dtype=torch.float64)
    fit = torch.linalg.solve(gram, known.mT @ wanted / FITTED)
    rest, own = inputs[FITTED:], targets[FITTED:]
    return 1 - float((own - rest @ fit).square().sum() / (own - wanted.mean(0)).square().sum())


@torch.no_grad()
def main(overrides: list[str]) -> None:
    config = composition.checked(["terms=[repa]", *overrides])
    encoder = build(config["terms"]["repa"]["encoder"])().eval()
    conditioner = build(config["conditioner"]).eval()
    source = SceneSource(size=IMAGES, caption_kinds=("short", "sparse", "long", "paraphrase"))
    found = features(encoder, source)
    means = found.mean(1)
    between = float((means - means.mean(0)).square().sum(1).mean())
    within = float((found - means[:, None]).square().sum(2).mean())
    captions = [source.captions(index) for index in range(IMAGES)]
    pooled = conditioner([texts[index % len(texts)] for index, texts in enumerate(captions)]).pooled
    print(f"variance between images         {100 * between / (between + within):5.1f} %")
    print(f"  of which the condition predicts {100 * explained(pooled, means):5.1f} %")
    print(f"variance within images          {100 * within / (between + within):5.1f} %")
    print(
        f"cosine with the image's mean    {float(F.cosine_similarity(found, means[:, None], dim=2).mean()):5.3f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
