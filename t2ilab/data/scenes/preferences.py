"""Pairs of pictures for one prompt, judged by somebody whose taste is known.

A picture has the utility u = 2 [passed] + 2 share + 2 quality (see `score`); of a pair the first is preferred
with the Bradley-Terry probability

    p = sigmoid(u_first - u_second),

so no model of the label can be right more often than the mean of max(p, 1 - p), nor have a lower log loss
than the mean entropy of p.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

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
    """One judged pair.

    Attributes:
        prompt: the text both pictures were made for.
        scenes, utilities: of the first and the second picture.
        probability: that the first is preferred.  label: 1 if it was, else 0.
    """

    prompt: str
    scenes: tuple[Scene, Scene]
    utilities: tuple[float, float]
    probability: float
    label: int


class PreferencePairs:
    """`size` judged pairs; pair i is a function of (split, seed, i). No scene is in two splits.

    Args:
        split: train, val or test.  size: number of pairs.  resolution: pixels.  seed: of the draw.
    """

    def __init__(
        self, split: str = "train", *, size: int = 5000, resolution: int = 64, seed: int = 0
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"the split of preferences must be one of {SPLITS}, got {split!r}")
        if size < 1 or resolution not in RESOLUTIONS:
            raise ValueError(
                f"preferences want size > 0 and a resolution of {RESOLUTIONS}, got {size} and {resolution}"
            )
        self.split, self.size, self.resolution, self.seed = split, size, resolution, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Preference:
        if not 0 <= index < self.size:
            raise IndexError(f"preference {index} of {self.size}")
        return preference(self.split, index, self.seed)

    def images(self, indices: Sequence[int]) -> Tensor:
        """Both pictures of every pair, uint8 (n, 2, 3, resolution, resolution)."""
        scenes = [scene for index in indices for scene in self[int(index)].scenes]
        pictures = torch.from_numpy(render_batch(scenes, self.resolution)).permute(0, 3, 1, 2)
        return pictures.reshape(len(indices), 2, *pictures.shape[1:]).contiguous()

    def prompts(self, indices: Sequence[int]) -> list[str]:
        return [self[int(index)].prompt for index in indices]

    def labels(self, indices: Sequence[int]) -> Tensor:
        """1 where the first picture was preferred, int64 (n,)."""
        return torch.tensor([self[int(index)].label for index in indices], dtype=torch.int64)

    def best_accuracy(self) -> float:
        """Expected accuracy of the best possible guess of the labels: mean max(p, 1 - p)."""
        return sum(max(p, 1 - p) for p in self._probabilities()) / self.size

    def best_loss(self) -> float:
        """Expected log loss of the best possible model: mean entropy of p, nats."""
        return -sum(p * math.log(p) + (1 - p) * math.log1p(-p) for p in self._probabilities()) / self.size

    def digest(self) -> str:
        identity = ("preferences", VERSION, self.split, self.size, self.resolution, self.seed)
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def _probabilities(self) -> list[float]:
        return [self[index].probability for index in range(self.size)]


def utility(requirement: Requirement, scene: Scene) -> float:
    """2 [passed] + 2 share + 2 quality of the true picture of a scene."""
    result = check(requirement, truth(scene))
    return 2.0 * result.passed + 2.0 * result.share + 2.0 * result.style


@lru_cache(maxsize=4096)
def preference(split: str, index: int, seed: int = 0) -> Preference:
    """The judged pair of this number."""
    scene = sample_scene("general", split, index, seed + 1_000_003)  # apart from the pictures of pre-training
    draws = Draws(f"preference/{split}", seed, index)
    requirement = requirement_of(scene)
    pair = _attempt(draws, scene), _attempt(draws, scene)
    first, second = (utility(requirement, attempt) for attempt in pair)
    probability = 1 / (1 + math.exp(second - first))
    label = int(draws.chance(probability))
    return Preference(captions(scene, ("short",))[0], pair, (first, second), probability, label)


def _attempt(draws: Draws, scene: Scene) -> Scene:
    """A picture somebody made for the prompt of a scene: of any style, mirrored, right or with one fault."""
    style, fault = draws.choice(STYLES), draws.weighted(FAULTS)
    scene = replace(scene, style=style, grain=draws.word())
    which = int(draws.unit() * len(scene.objects))
    item, rest = scene.objects[which], [o for k, o in enumerate(scene.objects) if k != which]
    if fault == "color":
        item = replace(item, color=_other(draws, item, "color"))
    elif fault == "shape":
        item = replace(item, shape=_other(draws, item, "shape"))
    elif fault == "place":  # turning the picture by half a turn changes every relation
        return replace(scene, objects=tuple(replace(o, x=SIDE - o.x, y=SIDE - o.y) for o in scene.objects))
    elif fault == "missing" and rest:
        return replace(scene, objects=tuple(rest), relation=None)
    return replace(scene, objects=(*scene.objects[:which], item, *scene.objects[which + 1 :]))


def _other(draws: Draws, item: Object, name: str) -> str:
    """Another colour or shape, never making a held-out pair."""
    values = [value for value in (COLORS if name == "color" else SHAPES) if value != getattr(item, name)]
    pairs = [((value, item.shape) if name == "color" else (item.color, value), value) for value in values]
    return draws.choice([value for pair, value in pairs if pair not in HELD_OUT])
