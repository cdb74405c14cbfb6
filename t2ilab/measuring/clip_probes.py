"""What a CLIP of the synthetic data set knows: retrieval, reading, and what a linear read-out finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from t2ilab.data.scenes import Scene, captions
from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.questions import answers
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source
from t2ilab.text.towers import TwoTowers
from t2ilab.training.latent_rows import to_signed

TRAIN = 6000  # scenes that the linear read-outs are fitted on, at most
TOKENS_SKIP = 1  # the layer that `conditioner=scenes` reads: all but the last


@torch.no_grad()
def features(student: TwoTowers, images: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors of images and of texts, (n, E) each."""
    vectors = torch.cat([student.encode_image(to_signed(part)).pooled for part in images.split(256)])
    ids, mask = student.tokenizer(texts)
    words = torch.cat(
        [student.encode_text(i, m).pooled for i, m in zip(ids.split(256), mask.split(256), strict=True)]
    )
    return torch.nn.functional.normalize(vectors, dim=1), torch.nn.functional.normalize(words, dim=1)


@torch.no_grad()
def token_features(student: TwoTowers, texts: list[str]) -> Tensor:
    """All token vectors of each text side by side, (n, L D), of the layer that `conditioner=scenes` reads."""
    ids, mask = student.tokenizer(texts)
    parts = zip(ids.split(256), mask.split(256), strict=True)
    return torch.cat([student.encode_text(i, m, skip=TOKENS_SKIP).tokens.flatten(1) for i, m in parts])


def long_caption(scene: Scene) -> str:
    """The caption that names everything, whichever ones the towers have learned from."""
    return captions(scene, ("long",))[0]


def retrieval(student: TwoTowers, plain: SceneSource, near: Source) -> dict[str, float]:
    """How often the long caption finds its image: among 100 (or all of fewer), and against its near miss alone."""
    rows = range(len(plain))
    texts = [long_caption(plain.scene(row)) for row in rows]
    images, words = features(student, plain.images(rows), texts)
    misses, _ = features(student, near.images(rows), texts)
    group = min(100, len(rows))
    whole = len(rows) // group * group
    scores = torch.einsum(
        "gik,gjk->gij",
        words[:whole].view(-1, group, words.shape[1]),
        images[:whole].view(-1, group, words.shape[1]),
    )
    found = scores.argmax(2) == torch.arange(group)
    return {
        f"retrieval_of_{group}": round(float(found.float().mean()), 4),
        "near_miss": round(float(((words * images).sum(1) > (words * misses).sum(1)).float().mean()), 4),
    }


@torch.no_grad()
def reading(student: TwoTowers, source: Source) -> dict[str, float]:
    """Share of all captions of a source of which the reader reads every attribute of every thing right."""
    if student.reader is None:
        return {}
    texts = sorted({text for row in range(len(source)) for text in source.captions(row)})
    ids, mask = student.tokenizer(texts)
    read = (student.encode_text(i, m) for i, m in zip(ids.split(256), mask.split(256), strict=True))
    told = torch.cat([features.told.things for features in read if features.told is not None])
    guess = torch.stack([part.argmax(-1) for part in told.split(list(student.reader.choices), -1)], -1)
    right = torch.tensor([answers(text)[0] for text in texts])
    return {"things_read": round(float((guess == right).flatten(1).all(1).float().mean()), 4)}


def _one(read: Callable[[Scene], str]) -> Callable[[Scene], str | None]:
    return lambda scene: read(scene) if len(scene.objects) == 1 else None


def _two(read: Callable[[Scene], str]) -> Callable[[Scene], str | None]:
    return lambda scene: read(scene) if scene.relation else None


ATTRIBUTES: dict[str, Callable[[Scene], str | None]] = {
    "color": _one(lambda scene: scene.objects[0].color),
    "shape": _one(lambda scene: scene.objects[0].shape),
    "size": _one(lambda scene: scene.objects[0].size),
    "count": lambda scene: str(len(scene.objects)),
    "background": lambda scene: scene.background,
    "style": lambda scene: scene.style,
}
BOUND: dict[str, Callable[[Scene], str | None]] = {
    "first_color": _two(lambda scene: scene.objects[0].color),
    "first_shape": _two(lambda scene: scene.objects[0].shape),
    "second_color": _two(lambda scene: scene.objects[1].color),
    "second_shape": _two(lambda scene: scene.objects[1].shape),
    "relation": _two(lambda scene: scene.relation or ""),
}


def probes(student: TwoTowers, data: DataSet) -> dict[str, float]:
    """Accuracy of a linear read-out of every attribute on the validation split.

    `picture_` and `text_` read the pooled vectors, `tokens_` the token vectors that a denoiser is given, of long
    captions.
    """
    train = min(TRAIN, len(data.train))
    sides = []
    for source, number in ((data.train, train), (data.val, len(data.val))):
        scenes = [cast(SceneSource, source).scene(row) for row in range(number)]
        texts = [long_caption(scene) for scene in scenes]
        pooled = features(student, source.images(range(number)), texts)
        sides.append((scenes, *pooled, token_features(student, texts)))
    found = {f"picture_{name}": _probe(sides, 1, read) for name, read in ATTRIBUTES.items()}
    found |= {f"text_{name}": _probe(sides, 2, read) for name, read in (ATTRIBUTES | BOUND).items()}
    return found | {f"tokens_{name}": _probe(sides, 3, read) for name, read in (ATTRIBUTES | BOUND).items()}


def _probe(sides: list[Any], column: int, read: Callable[[Scene], str | None]) -> float:
    """Ridge regression on one-hot targets, fitted on the first side and scored on the second."""
    (x, y), (x_val, y_val) = (_labelled(side[0], side[column], read) for side in sides)
    names = sorted(set(y))
    target = torch.tensor([[float(name == label) for name in names] for label in y], dtype=torch.float64)
    gram = x.T @ x + 1e-3 * torch.eye(x.shape[1], dtype=torch.float64)
    guess = (x_val @ torch.linalg.solve(gram, x.T @ target)).argmax(1)
    right = [names[int(g)] == label for g, label in zip(guess, y_val, strict=True)]
    return round(sum(right) / max(1, len(right)), 4)


def _labelled(
    scenes: list[Scene], x: Tensor, read: Callable[[Scene], str | None]
) -> tuple[Tensor, list[str]]:
    labels = [read(scene) for scene in scenes]
    rows = [row for row, label in enumerate(labels) if label is not None]
    one = torch.ones(len(rows), 1, dtype=torch.float64)
    return torch.cat([x[rows].double(), one], 1), [label for label in labels if label is not None]
