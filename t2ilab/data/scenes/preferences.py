"""Images for one prompt, compared by somebody whose taste is known.

An image has the utility u = 2 [passed] + 2 share + 2 quality (see `score`). Who compares sees it with a noise of the
standard Gumbel distribution, y = u + g, and prefers the larger y unless two differ by no more than `ties`. Of a pair
the first is preferred with the probability

    p = sigmoid(u_first - u_second - ties),                                                     (Rao and Kupper)

which without ties is that of Bradley and Terry, and without ties the order of several images is that of Plackett and
Luce. No model of decided pairs can be right more often than the mean of max(p, q) / (p + q), q the probability of the
reverse, nor have a lower log loss than the mean entropy of p / (p + q).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from t2ilab.data.comparison_source import Comparisons
from t2ilab.data.scenes.dataset import VERSION
from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import Requirement, captions, requirement_of
from t2ilab.data.scenes.render import RESOLUTIONS, render_batch
from t2ilab.data.scenes.sampler import sample_scene
from t2ilab.data.scenes.score import check, truth
from t2ilab.data.scenes.world import COLORS, HELD_OUT, SHAPES, SIDE, SPLITS, STYLES, Object, Scene

FAULTS = {"none": 0.4, "color": 0.2, "shape": 0.2, "place": 0.1, "missing": 0.1}


@dataclass(frozen=True)
class Preference:
    """One comparison.

    Attributes:
        prompt: the text that all images were made for.
        scenes, utilities: of each image.
        ranks: 0 for the best; equal numbers are a tie.
        ties: the distance that decides.
    """

    prompt: str
    scenes: tuple[Scene, ...]
    utilities: tuple[float, ...]
    ranks: tuple[int, ...]
    ties: float = 0.0

    def wins(self, one: int, other: int) -> float:
        """The probability that image `one` is preferred to image `other`, were they compared alone."""
        return 1 / (1 + math.exp(self.utilities[other] - self.utilities[one] + self.ties))

    @property
    def label(self) -> int:
        """1 if the first image was preferred to the second, else 0."""
        return int(self.ranks[0] < self.ranks[1])


class Preferences(Comparisons):
    """`size` comparisons; number i is a function of (split, seed, i, images, ties). No scene is in two splits.

    Args:
        split: train, val or test.  size: number of comparisons.  resolution: pixels.  seed: of the draw.
        images: of each comparison.  ties: as above, 0 for none.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        size: int = 5000,
        resolution: int = 64,
        seed: int = 0,
        images: int = 2,
        ties: float = 0.0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"the split of preferences must be one of {SPLITS}, got {split!r}")
        if size < 1 or resolution not in RESOLUTIONS:
            raise ValueError(
                f"preferences want size > 0 and a resolution of {RESOLUTIONS}, got {size} and {resolution}"
            )
        if images < 2 or not ties >= 0:
            raise ValueError(f"preferences want data.images >= 2 and data.ties >= 0, got {images} and {ties}")
        self.split, self.size, self.resolution, self.seed = split, size, resolution, seed
        self.number, self.ties = images, ties

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Preference:
        if not 0 <= index < self.size:
            raise IndexError(f"preference {index} of {self.size}")
        return preference(self.split, index, self.seed, self.number, self.ties)

    def images(self, indices: Sequence[int]) -> Tensor:
        """All images of every comparison, uint8 (n, images, 3, resolution, resolution)."""
        scenes = [scene for index in indices for scene in self[int(index)].scenes]
        images = torch.from_numpy(render_batch(scenes, self.resolution)).permute(0, 3, 1, 2)
        return images.reshape(len(indices), self.number, *images.shape[1:]).contiguous()

    def prompts(self, indices: Sequence[int]) -> list[str]:
        return [self[int(index)].prompt for index in indices]

    def ranks(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self[int(index)].ranks for index in indices], dtype=torch.int64)

    def best_accuracy(self) -> float | None:
        """Expected accuracy of the best guess of decided pairs; None for rankings with ties."""
        if self.number > 2 and self.ties:
            return None
        odds = self._odds()
        return sum(max(p, q) for p, q in odds) / sum(p + q for p, q in odds)

    def odds(self, indices: Sequence[int]) -> Tensor:
        return odds_of(torch.tensor([self[int(index)].utilities for index in indices]), self.ties)

    def best_loss(self) -> float:
        """Expected log loss of the best possible model of decided pairs, nats."""
        odds = self._odds()
        total = sum(p + q for p, q in odds)
        return -sum(p * math.log(p / (p + q)) + q * math.log(q / (p + q)) for p, q in odds) / total

    def digest(self) -> str:
        identity = ("preferences", VERSION, self.split, self.size, self.resolution, self.seed)
        return hashlib.sha256(repr((*identity, self.number, self.ties)).encode()).hexdigest()

    def _odds(self) -> list[tuple[float, float]]:
        """Of all pairs of images, the probabilities of both decisions."""
        pairs = [(i, j) for i in range(self.number) for j in range(i)]
        each = (self[index] for index in range(self.size))
        return [(one.wins(i, j), one.wins(j, i)) for one in each for i, j in pairs]


def odds_of(utilities: Tensor, ties: float) -> Tensor:
    """Of utilities (n, K) the probabilities that i is preferred to j, (n, K, K)."""
    return torch.sigmoid(utilities[:, :, None] - utilities[:, None] - ties)


def utility(requirement: Requirement, scene: Scene) -> float:
    """2 [passed] + 2 share + 2 quality of the true image of a scene."""
    result = check(requirement, truth(scene))
    return 2.0 * result.passed + 2.0 * result.share + 2.0 * result.style


@lru_cache(maxsize=4096)
def preference(split: str, index: int, seed: int = 0, images: int = 2, ties: float = 0.0) -> Preference:
    """The comparison of this number."""
    scene = sample_scene("general", split, index, seed + 1_000_003)  # apart from the images of pre-training
    draws = Draws(f"preference/{split}", seed, index)
    requirement = requirement_of(scene)
    attempts = tuple(_attempt(draws, scene) for _ in range(images))
    utilities = tuple(utility(requirement, attempt) for attempt in attempts)
    seen = [_noisy(u, draws) for u in utilities]
    return Preference(captions(scene, ("short",))[0], attempts, utilities, ranks_of(seen, ties), ties)


def _noisy(value: float, draws: Draws) -> float:
    """The value with standard Gumbel noise, -ln(-ln(u)) of a uniform u in (0, 1)."""
    return value - math.log(-math.log(0.5 * 2**-32 + draws.unit() * (1 - 2**-32)))


def ranks_of(seen: Sequence[float], ties: float) -> tuple[int, ...]:
    """Ranks from 0; what lies within `ties` of the best of its rank shares it."""
    ranks, best, rank = [0] * len(seen), math.inf, -1
    for index in sorted(range(len(seen)), key=lambda k: -seen[k]):
        if best - seen[index] > ties or rank < 0:
            rank, best = rank + 1, seen[index]
        ranks[index] = rank
    return tuple(ranks)


def _attempt(draws: Draws, scene: Scene) -> Scene:
    """An image somebody made for the prompt of a scene: of any style, mirrored, right or with one fault."""
    style, fault = draws.choice(STYLES), draws.weighted(FAULTS)
    scene = replace(scene, style=style, grain=draws.word())
    which = int(draws.unit() * len(scene.objects))
    item, rest = scene.objects[which], [o for k, o in enumerate(scene.objects) if k != which]
    if fault == "color":
        item = replace(item, color=_other(draws, item, "color"))
    elif fault == "shape":
        item = replace(item, shape=_other(draws, item, "shape"))
    elif fault == "place":  # turning the image by half a turn changes every relation
        return replace(scene, objects=tuple(replace(o, x=SIDE - o.x, y=SIDE - o.y) for o in scene.objects))
    elif fault == "missing" and rest:
        return replace(scene, objects=tuple(rest), relation=None)
    return replace(scene, objects=(*scene.objects[:which], item, *scene.objects[which + 1 :]))


def _other(draws: Draws, item: Object, name: str) -> str:
    """Another colour or shape, never making a held-out pair."""
    values = [value for value in (COLORS if name == "color" else SHAPES) if value != getattr(item, name)]
    pairs = [((value, item.shape) if name == "color" else (item.color, value), value) for value in values]
    return draws.choice([value for pair, value in pairs if pair not in HELD_OUT])
