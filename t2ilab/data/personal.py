"""The data of a personalisation: the images of a subject under one prompt, and those of its class under another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ilab.build import Node
from t2ilab.data.cache import digest_of
from t2ilab.data.report import DataReport
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source


class Retold(Source):
    """The images of a source, all with one caption."""

    def __init__(self, source: Source, caption: str) -> None:
        self.source, self.caption, self.resolution = source, caption, source.resolution

    def __len__(self) -> int:
        return len(self.source)

    def images(self, indices: Sequence[int]) -> Tensor:
        return self.source.images(indices)

    def captions(self, index: int) -> list[str]:
        return [self.caption]

    def digest(self) -> str:
        return digest_of({"retold": self.source.digest(), "caption": self.caption})

    def image_digest(self) -> str:
        return self.source.image_digest()


class ImageFiles(Source):
    """The PNG files of a folder, which have the right size; file k has caption k mod n of n.

    Raises:
        ValueError: there are none, or one has another size.
    """

    def __init__(self, path: str, resolution: int, texts: Sequence[str]) -> None:
        from PIL import Image

        self.files = sorted(Path(path).glob("*.png"))
        self.resolution, self.texts = resolution, list(texts)
        if not self.files:
            raise ValueError(f"there are no PNG files in {path}")
        for file in self.files:
            with Image.open(file) as image:
                if image.size != (resolution, resolution):
                    size = f"{image.size[0]} x {image.size[1]}"
                    raise ValueError(
                        f"{file} is {size}, data.resolution={resolution}: set it to what the model draws"
                    )

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Sequence[int]) -> Tensor:
        from PIL import Image

        def read(file: Path) -> Tensor:
            with Image.open(file) as image:
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

        return torch.stack([read(self.files[index]) for index in indices])

    def captions(self, index: int) -> list[str]:
        return [self.texts[index % len(self.texts)]]

    def image_digest(self) -> str:
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files]
        return digest_of({"files": digests, "resolution": self.resolution})

    def digest(self) -> str:
        texts = self.texts[0] if len(self.texts) == 1 else self.texts
        return digest_of({"pictures": self.image_digest(), "caption": texts})


class Subject(DataSet):
    """The images of another data set as those of one subject.

    Args:
        data: makes that data set of (resolution, batch_size, workers); its validation images and truth measure.
        caption: of every image, with the rare word.
        prompts: for previews, in which the caption stands in contexts.
        class_caption: of an image of the class.
    """

    def __init__(
        self,
        *,
        data: Callable[..., DataSet],
        caption: str,
        prompts: Sequence[str],
        resolution: int,
        batch_size: int,
        workers: int,
        class_caption: str | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        self.class_caption = class_caption
        self.inner = data(resolution=resolution, batch_size=batch_size, workers=workers)
        self.train: Retold = Retold(self.inner.train, caption)
        self.val = Retold(self.inner.val, caption)
        self.world, self.suites, self.prompts = self.inner.world, self.inner.suites, list(prompts)

    def preview_prompts(self) -> list[str]:
        return self.prompts

    def report(self) -> DataReport | None:
        return self.inner.report()

    def summary(self) -> str:
        return f"the subject of {self.inner.summary()}"


class ClassImages(DataSet):
    """Images of a class in a folder.

    Args:
        path: of the PNG files; caption: of the class alone.
        captions: of the files, in turn; None for that one.
    """

    def __init__(
        self,
        *,
        path: str,
        caption: str,
        resolution: int,
        batch_size: int,
        workers: int,
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        self.caption = caption
        self.train = self.val = ImageFiles(path, resolution, captions or [caption])

    def preview_prompts(self) -> list[str]:
        return [self.caption]

    def summary(self) -> str:
        return f"{len(self.train)} images of the class"


@dataclass(frozen=True)
class Named:
    """What one subject of a personalisation is called.

    Attributes:
        token: its rare word.
        class_name: what it is.
        path: folder of its images; None for those of the data.
    """

    token: str
    class_name: str
    path: str | None = None

    @property
    def caption(self) -> str:
        return prompt_of(f"{self.token} {self.class_name}")


def data_node(
    node: Node,
    subjects: Sequence[Named],
    class_folders: Mapping[str, Path],
    class_prompts: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The config node of a personalisation: half of every batch from the subjects, half from their classes.

    Args:
        node: of the first subject's images.
        class_folders: of the images of each class, by its name; {} to do without.
        class_prompts: what these were drawn for, in turn; of a class that is left out the class alone.
    """
    shared = {name: node[name] for name in ("resolution", "batch_size", "workers")}
    inner = {name: value for name, value in node.items() if name not in shared} | {"_partial_": True}
    prompts = previews(subjects)
    made = {
        _name("subject", number): subject_node(one, inner, prompts if number == 0 else contexts(one))
        for number, one in enumerate(subjects)
    }
    if len(made) == 1 and not class_folders:
        return made["subject"] | shared
    classes = {
        _name("class", number): {
            "_target_": "t2ilab.data.personal.ClassImages",
            "path": str(folder),
            "caption": prompt_of(name),
            "captions": list(class_prompts.get(name, ())) or None,
        }
        for number, (name, folder) in enumerate(class_folders.items())
    }
    return {
        "_target_": "t2ilab.data.mixture.Mixture",
        "sources": {name: one | {"_partial_": True} for name, one in {**made, **classes}.items()},
        "weights": batch_shares(made, classes),
        "val": "subject",
        **shared,
    }


def batch_shares(subjects: Collection[str], classes: Collection[str]) -> dict[str, float]:
    """The weight of each in a batch: half of it of the subjects, half of their classes, each of a half alike."""
    return {name: 1.0 / len(half) for half in (subjects, classes) for name in half}


def subject_node(subject: Named, inner: Node, prompts: Sequence[str]) -> dict[str, Any]:
    """The node of one subject's images, of the data `inner` or of a folder of its own."""
    if subject.path is not None:
        inner = {**inner, "path": subject.path}
    if "caption" in inner:  # of a folder, whose images need none of their own
        inner = {**inner, "caption": inner["caption"] or subject.caption}
    return {
        "_target_": "t2ilab.data.personal.Subject",
        "data": inner,
        "caption": subject.caption,
        "prompts": list(prompts),
        "class_caption": prompt_of(subject.class_name),
    }


def previews(subjects: Sequence[Named]) -> list[str]:
    """Eight prompts: those of the only subject, or the first ones of each."""
    each = [contexts(one) for one in subjects]
    return [text for texts in zip(*each, strict=True) for text in texts][:8]


def _name(kind: str, number: int) -> str:
    """`subject`, `subject_2`, `subject_3`."""
    return kind if number == 0 else f"{kind}_{number + 1}"


def prompt_of(thing: str) -> str:
    """`a dog`, `an owl`."""
    return f"a{'n' if thing[0].lower() in 'aeiou' else ''} {thing}"


def naming(texts: Collection[str], name: str) -> list[str]:
    """The texts in which a name stands, its plural too: `dog` in `two dogs`, not in `a bulldog`."""
    return [text for text in texts if re.search(rf"\b{re.escape(name)}", text)]


def contexts(subject: Named) -> list[str]:
    """Prompts that put the subject where it has not been seen, and its class alone."""
    own, class_name = subject.caption, subject.class_name
    return [
        own,
        f"{own} on a black background",
        f"{own} on a white background",
        f"{own} and a red circle",
        f"{own} above a blue star",
        f"{own} to the left of a green square",
        prompt_of(class_name),
        f"{prompt_of(class_name)} on a black background",
    ]
