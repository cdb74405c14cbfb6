"""How different are several images of the same prompt?"""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_distances(features: Tensor) -> Tensor:
    """Mean cosine distance between the copies of each prompt: 1 - mean over pairs i < j of cos(f_i, f_j).

    0 for identical images; a model that falls to one image per prompt goes to 0 however good that image
    is.

    Args:
        features: (prompts, copies, d), copies >= 2.
    Returns:
        (prompts,) float64.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(
            f"diversity needs features (prompts, copies >= 2, d), got {tuple(features.shape)}: "
            "set eval.samples_per_prompt to 2 or more"
        )
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    copies = unit.shape[1]
    # The sum over all ordered pairs is |sum of f|^2 - copies, since every f has length 1.
    pairs = unit.sum(1).square().sum(-1) - copies
    return (1 - pairs / (copies * (copies - 1))).clamp_min(0)
