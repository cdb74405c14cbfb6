"""How well an image and its prompt agree by a CLIP: the CLIP score, and with other weights PickScore and HPS v2."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from t2ilab.rewards.base import Reward
from t2ilab.rewards.towers import open_towers


class CLIPScore(Reward):
    """scale cos(image, text).

    Args:
        path: folder of the CLIP, see `open_towers`.
        name: architecture of open_clip, if it is one of its.
        scale: 100 for CLIP score and PickScore, 1 for HPS v2.
    Source: Hessel et al. 2021, arXiv 2104.08718; Kirstain et al. 2023 (PickScore), arXiv 2305.01569; Wu et al. 2023
    (HPS v2), arXiv 2306.09341.
    """

    def __init__(self, *, path: str | None, name: str | None = None, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"reward.scale must be positive, got {scale}")
        self.towers = open_towers(path, name).requires_grad_(False)
        self.scale = scale
        self.range = (-scale, scale)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        texts = self.towers.texts(self.towers.tokens(prompts).to(images.device))
        return self.scale * F.cosine_similarity(self.towers.images(images).float(), texts.float(), dim=1)
