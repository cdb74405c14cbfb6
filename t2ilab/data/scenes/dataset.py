"""The synthetic data set as a source of training data: nothing is stored, images are made when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2ilab.data.scenes.grammar import SUBJECT_LOOK, TEXTS, captions
from t2ilab.data.scenes.render import RESOLUTIONS, render_batch
from t2ilab.data.scenes.sampler import sample_scene
from t2ilab.data.scenes.world import Scene
from t2ilab.data.source import Source, checked_weights

SUBJECT_IMAGES = 5  # as few as a user of DreamBooth has
# Of the data set: to be raised whenever an image, a caption or a verdict changes; caches are made anew.
VERSION = 3


class SceneSource(Source):
    """Scenes of one subset and split with their captions.

    Args:
        subset: general, teddy, curated, subject, class or foundation (a mixture of all but the subject).
        split: train, val, test or compose.
        size: number of images; None for all 5 of the subject and for 20000 of the others.
        resolution: 32, 64, 128 or 256 pixels.
        seed: another seed is another draw from the same distribution.
        caption_kinds: which captions, see `grammar.captions`.
        caption_weights: how likely each kind is; the two paraphrases share theirs.
        jitter: how far objects leave their places, see `sample_scene`.
    """

    def __init__(
        self,
        subset: str = "general",
        split: str = "train",
        *,
        size: int | None = None,
        resolution: int = 64,
        seed: int = 0,
        caption_kinds: Sequence[str] = ("short", "long", "paraphrase"),
        jitter: float = 0.0,
        caption_weights: Mapping[str, float] | None = None,
    ) -> None:
        most = SUBJECT_IMAGES if subset == "subject" else 2**32
        size = min(most, 20000) if size is None else size
        if not 1 <= size <= most:
            option = "data.val_size" if split == "val" else "data.size"
            raise ValueError(f"{option} must be from 1 to {most} for data.subset={subset}, got {size}")
        if resolution not in RESOLUTIONS:
            raise ValueError(f"data.resolution must be one of {RESOLUTIONS} for scenes, got {resolution}")
        self.subset, self.split, self.seed = subset, split, seed
        self.resolution, self.size = resolution, size
        self.caption_kinds, self.jitter = tuple(caption_kinds), jitter
        captions(self.scene(0), self.caption_kinds)  # refuses wrong options here
        if caption_weights is not None:
            self.caption_weights = checked_weights(caption_weights, self.caption_kinds)

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> Scene:
        """The truth behind image `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} of {self.size}")
        return sample_scene(self.subset, self.split, index, self.seed, jitter=self.jitter)

    def images(self, indices: Sequence[int]) -> Tensor:
        images = render_batch([self.scene(int(index)) for index in indices], self.resolution)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def captions(self, index: int) -> list[str]:
        return captions(self.scene(index), self.caption_kinds)

    def weights(self, index: int) -> list[float] | None:
        if self.caption_weights is None:
            return None
        return [
            self.caption_weights[kind] / TEXTS.get(kind, 1)
            for kind in self.caption_kinds
            for _ in range(TEXTS.get(kind, 1))
        ]

    def digest(self) -> str:
        identity = ("scenes", VERSION, self.subset, self.split, self.size, self.resolution, self.seed)
        own = SUBJECT_LOOK if self.subset == "subject" else ()
        return hashlib.sha256(repr((*identity, self.caption_kinds, self.jitter, *own)).encode()).hexdigest()
