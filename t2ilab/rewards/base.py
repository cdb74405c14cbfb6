"""What every reward promises: images and their prompts to one number each, more is better."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn


class Reward(nn.Module, ABC):
    """Scores images by their prompts. It does not learn: its parameters want no gradient.

    Numbers of different rewards, and of one reward for different prompts, are on different scales.

    Attributes:
        differentiable: whether gradients pass from the scores to the images.
        range: the least and the largest score that can come out; infinite where nothing bounds it.
    """

    differentiable: ClassVar[bool] = True
    range: tuple[float, float] = (-math.inf, math.inf)

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) float32 of images (B, 3, h, w) in [0, 1]."""

    def check(self, prompts: Sequence[str]) -> None:
        """Raises ValueError for a prompt that it cannot score, before an image of it is drawn."""

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) float32 of images (B, 3, h, w) float in [0, 1] and their B prompts.

        Raises:
            ValueError: the sizes differ, the images are no floats, or a gradient is wanted that there is none of.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"a reward wants float images (B, 3, h, w) in [0, 1], got {images.dtype} {tuple(images.shape)}"
            )
        if len(images) != len(prompts):
            raise ValueError(f"a reward wants a prompt for each of {len(images)} images, got {len(prompts)}")
        if images.requires_grad and not self.differentiable:
            raise ValueError(
                f"reward: {type(self).__name__} is not differentiable, and this method needs the gradient of the "
                "reward; choose reward=clip_score, reward=aesthetic or reward=learned"
            )
        return self.score(images, list(prompts)).float()

    def train(self, mode: bool = True) -> Reward:
        """Stays in evaluation mode."""
        return super().train(False)


class NoReward(Reward):
    """Stands for no reward where a stage can do without: nothing is scored, everything is kept."""

    differentiable = False

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise ValueError("reward=none scores nothing: choose a reward, such as reward=clip_score")
