"""Samplers whose next state is a normal distribution around a mean that the present one decides.

    x' ~ N(mean(x, t, t'), std(t, t')^2)                                                                        (1)

Sampling and training by reinforcement ask the same function for mean and std, so that the ratio of the probabilities
of a step under the network that drew it and under one with the same weights is 1 to the last bit.
Source: Black et al. 2023 (DDPO), arXiv 2305.13301; Liu et al. 2025 (Flow-GRPO), arXiv 2505.05470.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from t2ilab.core.path import Path, like_rows
from t2ilab.core.prediction import Estimate
from t2ilab.sampling.base import Run, Sampler


@dataclass(frozen=True)
class Transition:
    """The normal distribution of eq. (1).

    Attributes:
        mean: (B, C, H, W).
        std: of every number, (B,) float64; 0 where the step adds no noise.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std noise; the mean to the last bit where std is 0."""
        return torch.addcmul(self.mean, like_rows(self.std.to(noise.dtype), noise), noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln N(x; mean, std^2), the sum over all numbers of an image, (B,), in float32 or better.

        -|x - mean|^2 / (2 std^2) - D (ln std + ln(2 pi) / 2). The official codes of DDPO and Flow-GRPO take it by D.

        Raises:
            ValueError: a step that adds no noise has no density.
        """
        if not bool((self.std > 0).all()):
            raise ValueError(
                "a step without noise has no log-probability: leave the last step of the grid out"
            )
        x, mean = (one.double() if one.dtype == torch.float64 else one.float() for one in (x, self.mean))
        std = self.std.to(mean.dtype)
        z = (x - mean) / like_rows(std, mean)
        constant = std.log() + 0.5 * math.log(2 * math.pi)
        return (-0.5 * z.square() - like_rows(constant, z)).flatten(1).sum(1)


class Point(NamedTuple):
    """The path at times (B,), float64 each."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, path: Path, t: Tensor) -> Point:
        t = t.double()
        return cls(t, path.alpha(t), path.sigma(t))


class Markov(Sampler):
    """Eq. (1) with a mean and std of its own."""

    @abstractmethod
    def transition(self, estimate: Estimate, x: Tensor, t: Tensor, s: Tensor) -> Transition:
        """Where x goes in a step; gradients pass.

        Args:
            estimate: of the state x at the times t.
            x: (B, C, H, W).
            t, s: times of this state and of the next, (B,) float64, s < t.
        """

    def step(self, run: Run, i: int, x: Tensor) -> Tensor:
        t, s = (x.new_full((len(x),), run.table.t[j], dtype=torch.float64) for j in (i, i + 1))
        found = self.transition(run.denoise(x, run.table.t[i]), x, t, s)
        if run.rng is None or not bool((found.std > 0).any()):
            return found.mean
        following = found.sample(run.noise(i, found.mean))
        if run.log_probs is not None:
            run.log_probs.append(found.log_prob(following))
        return following


def rows(factor: Tensor, x: Tensor) -> Tensor:
    """A factor (B,) in the precision and the shape that multiplies x."""
    return like_rows(factor.to(x.dtype), x)


def lost_std(now: Point, then: Point) -> Tensor:
    """sigma_s of `vp.py`: std of the noise that the forward process adds from the later point to this one, (B,)."""
    share = now.alpha / then.alpha
    return (now.sigma.square() - (share * then.sigma).square()).clamp(min=0).sqrt()
