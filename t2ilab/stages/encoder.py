"""`stage=encoder`: trains a small CLIP on the embedded world, each picture beside a near miss.

In a batch of random scenes almost any one word tells two pictures apart. So every row brings a second picture
that differs in one respect, and the towers have to learn which colour belongs to which shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from t2ilab.build import build
from t2ilab.core.rng import RowRng
from t2ilab.data.scenes import Scene
from t2ilab.data.scenes.variants import VariantSource
from t2ilab.objectives.base import Losses
from t2ilab.objectives.contrastive import Contrastive
from t2ilab.stages.autoencoder import half
from t2ilab.stages.base import Stage
from t2ilab.stages.fit import TrainerOptions
from t2ilab.stages.job import Job
from t2ilab.stages.rows import PictureRows, to_signed
from t2ilab.text.tokenizer import Tokenizer
from t2ilab.text.towers import TwoTowers


class EncoderStage(Stage):
    """One optimizer over both towers; the logits of a batch are those of all its pairs on this process."""

    def __init__(self, student: TwoTowers, objective: Contrastive, **common: Any) -> None:
        super().__init__(student, **common)
        self.objective = objective

    def losses(self, batch: dict[str, Any], rng: RowRng) -> Losses:
        images, ids = batch["images"].flatten(0, 1), batch["ids"].flatten(0, 1)
        pictures = self.student.encode_image(to_signed(images)).pooled
        texts = self.student.encode_text(ids, ids != self.student.tokenizer.pad_id).pooled
        same = (ids[:, None] == ids[None]).all(-1)
        losses = self.objective(pictures, texts, self.student.log_temperature.exp(), same)
        return Losses({name: value.unflatten(0, (-1, 2)).mean(1) for name, value in losses.terms.items()})


class PairRows:
    """Picture i and its near miss, with token ids of a caption of the same kind for both."""

    def __init__(self, plain: Any, near: Any, tokenizer: Tokenizer, *, seed: int) -> None:
        self.sides = [PictureRows(source, seed=seed) for source in (plain, near)]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.sides[0])

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        images = [side.fetch(indices, epochs)["images"] for side in self.sides]
        ids = [self.tokenizer(side.texts(indices, epochs))[0] for side in self.sides]
        return {"images": torch.stack(images, 1), "ids": torch.stack(ids, 1)}


def run(config: dict[str, Any]) -> float:
    """Trains the towers, measures retrieval and linear probes, writes the export; returns the retrieval accuracy."""
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        data = build(config["data"])
        if data.world is None:
            raise ValueError("stage=encoder learns from near misses, which only data=scenes can make")
        captions = [
            text for index in range(min(4000, len(data.train))) for text in data.train.captions(index)
        ]
        tokenizer = Tokenizer.train([*captions, *data.world.vocabulary()], **config["stage"]["tokenizer"])
        torch.manual_seed(config["seed"])
        student = build(config["model"])(tokenizer=tokenizer)
        stage = EncoderStage(student, build(config["loss"]), **job.common(data))
        rows = PairRows(
            data.train,
            VariantSource(**source_options(config["data"], "train")),
            tokenizer,
            seed=config["seed"],
        )
        tokens = (student.sizes["image_size"] // student.sizes["patch_size"]) ** 2
        job.fit(stage, rows, data, what="encoder", tokens=tokens)
        if not job.first:
            return 0.0
        with job.ema.applied(student):
            half(student.eval())
            near = VariantSource(**source_options(config["data"], "val"))
            measured = retrieval(student, data.val, near) | probes(student, data)
            student.save(job.run.export / "text_encoder", dtype=torch.float16)
        job.finish_foundation("encoder", measured, parents=[])
        print(json.dumps(measured, indent=1))
        return job.close(float(measured["retrieval_of_100"]))


def refuse_split_batches(options: TrainerOptions) -> None:
    """Every pair of the global batch is compared with every other: a split batch would be another loss."""
    if options.world > 1 or options.accumulate > 1:
        raise ValueError(
            "stage=encoder compares all pairs of a batch, which must not be split: "
            f"set trainer.devices=1 trainer.num_nodes=1 trainer.accumulate=1, got {options.devices}, "
            f"{options.num_nodes} and {options.accumulate}"
        )


def source_options(node: dict[str, Any], split: str) -> dict[str, Any]:
    """The options of one split's SceneSource from a `data=scenes` node."""
    shared = {key: node[key] for key in ("subset", "resolution", "seed", "caption_kinds")}
    return shared | {"split": split, "size": node["size" if split == "train" else "val_size"]}


@torch.no_grad()
def features(student: TwoTowers, images: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors of pictures and of texts, (n, E) each."""
    pictures = torch.cat([student.encode_image(to_signed(part)).pooled for part in images.split(256)])
    ids, mask = student.tokenizer(texts)
    words = torch.cat(
        [student.encode_text(i, m).pooled for i, m in zip(ids.split(256), mask.split(256), strict=True)]
    )
    return torch.nn.functional.normalize(pictures, dim=1), torch.nn.functional.normalize(words, dim=1)


@torch.no_grad()
def token_features(student: TwoTowers, texts: list[str]) -> Tensor:
    """All token vectors of each text side by side, (n, L D), of the layer that `conditioner=scenes` reads."""
    ids, mask = student.tokenizer(texts)
    parts = zip(ids.split(256), mask.split(256), strict=True)
    return torch.cat([student.encode_text(i, m, skip=1).tokens.flatten(1) for i, m in parts])


def retrieval(student: TwoTowers, plain: Any, near: Any) -> dict[str, float]:
    """How often the long caption finds its picture: among 100 pictures, and against its near miss alone."""
    rows = range(len(plain))
    texts = [plain.captions(row)[1] for row in rows]
    pictures, words = features(student, plain.images(rows), texts)
    misses, _ = features(student, near.images(rows), texts)
    whole = len(rows) // 100 * 100
    scores = torch.einsum(
        "gik,gjk->gij",
        words[:whole].view(-1, 100, words.shape[1]),
        pictures[:whole].view(-1, 100, words.shape[1]),
    )
    found = scores.argmax(2) == torch.arange(100)
    return {
        "retrieval_of_100": round(float(found.float().mean()), 4),
        "near_miss": round(float(((words * pictures).sum(1) > (words * misses).sum(1)).float().mean()), 4),
    }


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


def probes(student: TwoTowers, data: Any, train: int = 6000) -> dict[str, float]:
    """Accuracy of a linear read-out of every attribute on the validation split.

    `picture_` and `text_` read the pooled vectors, `tokens_` the token vectors that a denoiser is given, of long
    captions.
    """
    train = min(train, len(data.train))
    sides = []
    for source, number in ((data.train, train), (data.val, len(data.val))):
        scenes = [source.scene(row) for row in range(number)]
        texts = [source.captions(row)[1] for row in range(number)]
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
