"""The judge of the synthetic data set as a reward: exact, and without a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2ilab.rewards.base import Reward


class Judge(Reward):
    """passed [all is right] + share (share of the attributes that are right) + quality (of the style, 0 to 1).

    With passed = share = quality = 2 it is the utility behind the built-in preferences.

    Args:
        passed, share, quality: weights, none negative and not all 0.
    """

    differentiable = False

    def __init__(self, *, passed: float, share: float, quality: float) -> None:
        super().__init__()
        weights = {"passed": passed, "share": share, "quality": quality}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(
                f"reward.passed, reward.share and reward.quality must not be negative nor all 0, got {weights}"
            )
        self.weights = weights
        self.range = (0.0, float(sum(weights.values())))

    def check(self, prompts: Sequence[str]) -> None:
        from t2ilab.data.scenes import parse

        foreign = next((text for text in prompts if parse(text) is None), None)
        if foreign is not None:
            raise ValueError(
                f"reward: the judge knows prompts of the synthetic data set alone, which {foreign!r} is not; choose "
                "another reward, such as reward=clip_score"
            )

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ValueError for a prompt that the grammar of the synthetic data set does not know."""
        from t2ilab.data.scenes import score_batch

        found = score_batch(list(prompts), images)
        values = [
            self.weights["passed"] * one.passed
            + self.weights["share"] * one.share
            + self.weights["quality"] * one.style
            for one in found
        ]
        return torch.tensor(values, dtype=torch.float32, device=images.device)
