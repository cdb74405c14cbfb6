"""`stage=encoder`: trains a small CLIP on the synthetic data set, each image beside a near miss.

In a batch of random scenes almost any one word tells two images apart. So every row brings a second image
that differs in one respect, and the towers have to learn which colour belongs to which shape.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from t2ilab.build import Config, build
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.scenes.questions import SLOTS, THING_CHOICES, WHOLE_CHOICES, answers
from t2ilab.data.scenes.variants import VariantSource
from t2ilab.data.source import Rows, Source
from t2ilab.measuring.clip_probes import probes, reading, retrieval
from t2ilab.objectives.reading import Reading
from t2ilab.stages.autoencoder import half
from t2ilab.text.tokenizer import Tokenizer
from t2ilab.text.towers import TwoTowers
from t2ilab.training.job import Job
from t2ilab.training.latent_rows import ImageRows, to_signed
from t2ilab.training.learner import Learner


class EncoderLearner(Learner):
    """Both towers and the reading of captions learn together.

    The logits are those of all pairs of a batch, which therefore is not split (`faults.split_batch`).
    """

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        names: Sequence[str] = ("ids", "things", "canonical", "whole")
        texts = {name: rows[name] for name in names if name in rows}
        return Batch(to_signed(rows["images"]), extras=texts)


def with_questions(towers: TwoTowers, *, reading: float) -> nn.ModuleDict:
    """The student: the towers and, if captions are read back, what answers the questions about them."""
    if not reading:
        return nn.ModuleDict({"towers": towers})
    sizes = towers.sizes
    questions = Reading(
        pooled_dim=sizes["embed_dim"],
        slots=sizes["slots"],
        choices=sizes["choices"],
        whole_choices=sizes["whole_choices"],
    )
    return nn.ModuleDict({"towers": towers, "questions": questions})


class PairRows:
    """Image i and its near miss, with token ids of a caption of the same kind for both, and what it asks for."""

    def __init__(self, plain: Source, near: Source, tokenizer: Tokenizer, *, seed: int) -> None:
        self.sides = [ImageRows(source, seed=seed) for source in (plain, near)]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.sides[0])

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        images = [side.fetch(indices, epochs)["images"] for side in self.sides]
        texts = [side.texts(indices, epochs) for side in self.sides]
        ids = [self.tokenizer(side)[0] for side in texts]
        asked = [[answers(text) for text in pair] for pair in zip(*texts, strict=True)]
        named = {
            name: torch.tensor([[answer[part] for answer in pair] for pair in asked])
            for part, name in enumerate(("things", "canonical", "whole"))
        }
        return {"images": torch.stack(images, 1), "ids": torch.stack(ids, 1)} | named


def run(config: Config) -> float:
    """Trains the towers, measures retrieval and linear probes, writes the export; returns the retrieval accuracy."""
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        data = build(config["data"])
        job.check_data(data)
        if data.world is None:
            raise ValueError(
                f"data: stage=encoder learns from near misses, which {config['data']['_target_']} cannot make: "
                "choose data=scenes_named"
            )
        captions = [
            text for index in range(min(4000, len(data.train))) for text in data.train.captions(index)
        ]
        tokenizer = Tokenizer.train([*captions, *data.world.vocabulary()], **config["stage"]["tokenizer"])
        torch.manual_seed(config["seed"])
        weight = config["stage"]["reading"]
        asked = {"slots": SLOTS, "choices": THING_CHOICES, "whole_choices": WHOLE_CHOICES} if weight else {}
        student = build(config["model"])(tokenizer=tokenizer, **asked)
        objective = build(config["loss"], reading=weight)
        stage = EncoderLearner(with_questions(student, reading=weight), objective, **job.common(data))
        rows = PairRows(data.train, VariantSource.of(data.train), tokenizer, seed=config["seed"])
        tokens = (student.sizes["image_size"] // student.sizes["patch_size"]) ** 2
        job.fit(stage, rows, data, what="encoder", tokens=tokens)
        if not job.first:
            return 0.0
        stage.cpu()  # what it knows is asked there
        with job.ema.applied(stage.student):
            half(student.eval())
            near = VariantSource.of(data.val)
            found = retrieval(student, data.val, near)
            measured = found | reading(student, data.val) | probes(student, data)
            job.finish_network(
                "encoder", measured, lambda folder: student.save(folder / "text_encoder", dtype=torch.float16)
            )
        print(json.dumps(measured, indent=1))
        return job.close(next(iter(found.values())))
