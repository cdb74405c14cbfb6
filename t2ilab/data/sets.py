"""What `data=` chooses: where the images come from, in which batches, and what is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from t2ilab.data.buckets import BucketOrder, Buckets
from t2ilab.data.cache import digest_of
from t2ilab.data.mirrored import Mirrored
from t2ilab.data.order import EpochOrder, Order
from t2ilab.data.report import DataReport
from t2ilab.data.source import Source


class DataSet(ABC):
    """A training and a validation source with the batch they are read in.

    Attributes:
        train, val: the sources.
        batch_size: global rows per optimizer step.
        workers: processes that fetch ahead.
        world: the module that knows the truth of the images (prompts and judge), or None.
        suites: splits of its prompts about what only this data set shows.
        holds: what its rows are: captioned images, comparisons of images, or pairs that a model drew.
    """

    holds: ClassVar[str] = "images"

    train: Source
    val: Source
    world: Any | None = None
    suites: tuple[str, ...] = ()

    def __init__(self, *, batch_size: int, workers: int) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
        if workers < 0:
            raise ValueError(f"data.workers must be 0 or more, got {workers}")
        self.batch_size, self.workers = batch_size, workers

    def sources(self) -> list[Source]:
        """What training reads: sources of one shape of image each, whose rows are counted one behind the other."""
        return [self.train]

    def order(self, seed: int) -> Order:
        """Which of these rows comes when, in the run of this seed."""
        return EpochOrder(len(self.train), self.batch_size, seed)

    def digest(self) -> str:
        """Identity of what training reads."""
        return self.train.digest()

    @abstractmethod
    def preview_prompts(self) -> list[str]:
        """Eight prompts for the images shown during training."""

    def report(self) -> DataReport | None:
        """What was found, used and dropped, where that is a question."""
        return None

    def image_splits(self) -> dict[str, dict[str, Any]]:
        """What an export and an evaluation say of the images: number and digest of each split."""
        splits = {"train": self.train, "val": self.val}
        return {name: {"number": len(split), "digest": split.digest()} for name, split in splits.items()}

    def facts(self) -> dict[str, Any]:
        """What else the manifest of an export says of what was learned from."""
        return {}

    def summary(self) -> str:
        """A few words for the start line."""
        return f"{len(self.train)} images at {self.train.resolution} px"


OWN_SUITES = {"teddy": ("teddy",), "class": ("teddy",), "subject": ("teddy", "subject", "described")}

SHAPES = [
    "a red circle above a blue star",
    "a large green square",
    "three yellow hearts",
    "a small purple diamond on a white background",
    "a pink ring to the left of an orange cross",
    "a cyan circle and a red triangle",
    "four blue stars on a grey background",
    "a yellow star below a green cross in shaded style",
]
BEARS = [
    "a red teddy bear",
    "a small blue teddy bear on a black background",
    "a yellow teddy bear to the left of a green star",
    "two orange teddy bears",
    "a red circle above a blue star",
    "a large green square",
    "three yellow hearts",
    "a pink ring to the left of an orange cross",
]


class Scenes(DataSet):
    """The synthetic data set (see t2ilab.data.scenes).

    Args:
        subset: general, teddy, curated, subject or class.
        size: training images; val_size: validation images.
        resolution: pixels; caption_kinds: which captions a training run draws among.
        caption_weights: how likely each kind is; None: every caption as likely as any other of its image.
        jitter: how far objects leave their lattice of places, 0 to 4 units: more is harder to learn.
        seed: of the data set, not of the run: another seed is another draw of images.
    """

    def __init__(
        self,
        *,
        subset: str,
        size: int,
        val_size: int,
        resolution: int,
        caption_kinds: Sequence[str],
        jitter: float,
        seed: int,
        batch_size: int,
        workers: int,
        caption_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        from t2ilab.data import scenes

        self.world = scenes
        self.subset = subset
        self.suites = OWN_SUITES.get(subset, ())
        source = partial(
            scenes.SceneSource,
            subset,
            resolution=resolution,
            seed=seed,
            caption_kinds=caption_kinds,
            jitter=jitter,
        )
        self.train = source("train", size=size, caption_weights=caption_weights)
        self.val = source("val", size=val_size)

    def preview_prompts(self) -> list[str]:
        return BEARS if self.subset in OWN_SUITES else SHAPES

    def summary(self) -> str:
        return f"scenes/{self.subset}, {super().summary()}"


class Folder(DataSet):
    """A folder of captioned images (see t2ilab.data.folder).

    Args:
        path: the folder; resolution: pixels after resize and centre crop.
        val_share, caption_column, caption_weights, caption, caption_prefix, min_size: as in FolderSource.
        flip: train on the mirror images as well, but of those whose captions name left or right.
        buckets: shapes that training images keep instead of the square; validation images stay square.
    """

    def __init__(
        self,
        *,
        path: str,
        resolution: int,
        val_share: float,
        caption_column: str | None,
        min_size: int | None,
        batch_size: int,
        workers: int,
        caption_weights: Mapping[str, float] | None = None,
        caption: str | None = None,
        caption_prefix: str | None = None,
        flip: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        from t2ilab.data.folder import FolderSource
        from t2ilab.data.scan import Scan

        scan = Scan.of(path, caption_column, caption_weights, caption=caption, caption_prefix=caption_prefix)

        def source(split: str) -> FolderSource:
            return FolderSource(
                path,
                resolution,
                split=split,
                val_share=val_share,
                caption_column=caption_column,
                caption_weights=caption_weights,
                min_size=min_size,
                scan=scan,
            )

        self.folder, self.val = source("train"), source("val")
        self.mirrored = Mirrored(self.folder) if flip else None
        self.train = self.mirrored or self.folder
        self.buckets = None if buckets is None else buckets.split(self.folder)

    def sources(self) -> list[Source]:
        if self.buckets is None:
            return super().sources()
        return [Mirrored(bucket) if self.mirrored else bucket for bucket in self.buckets]

    def order(self, seed: int) -> Order:
        if self.buckets is None:
            return super().order(seed)
        return BucketOrder(tuple(map(len, self.sources())), self.batch_size, seed)

    def digest(self) -> str:
        if self.buckets is None:
            return super().digest()
        return digest_of({"buckets": [bucket.digest() for bucket in self.sources()]})

    def preview_prompts(self) -> list[str]:
        texts = [self.val.shown(index) for index in range(min(8, len(self.val)))]
        texts += [self.train.shown(index) for index in range(min(8 - len(texts), len(self.train)))]
        return texts

    def report(self) -> DataReport:
        if self.buckets is None:
            return self.folder.report
        counts = {f"{bucket.height} x {bucket.width}": len(bucket) for bucket in self.buckets}
        return replace(self.folder.report, buckets=counts)

    def summary(self) -> str:
        shapes = "" if self.buckets is None else f" in {len(self.buckets)} shapes"
        flips = "" if self.mirrored is None else f" {self.mirrored.text()}"
        images = f"{len(self.folder)} images at {self.train.resolution} px"
        return f"{self.folder.report.path}, {images}{flips}{shapes}"
