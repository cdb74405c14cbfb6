"""`stage=reward`: a CLIP learns which of several images for a prompt people prefer; export: kind reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ilab.build import build
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.cache import cache_root, open_or_fill
from t2ilab.data.comparisons import Comparisons
from t2ilab.eval.preferences import preference_metrics
from t2ilab.eval.result import Evaluation, show
from t2ilab.objectives.ranking import decisions
from t2ilab.rewards.model import RewardModel
from t2ilab.rewards.towers import Towers
from t2ilab.stages.base import Learner
from t2ilab.stages.job import Job
from t2ilab.stages.rows import device_of, pictures_at_once, ticker, to_signed


class RewardLearner(Learner):
    """A reward model learns from comparisons."""

    def to_batch(self, rows: dict[str, Any], rng: RowRng) -> Batch:
        return Batch(to_signed(rows["images"]), extras={name: rows[name] for name in ("ids", "ranks")})


class ComparisonRows:
    """Images, token ids and ranks of comparisons; the images are kept as bytes in the cache."""

    def __init__(self, source: Comparisons, towers: Towers, *, cache: Path | None = None) -> None:
        rows = range(len(source))
        key = {"kind": "comparisons", "source": source.digest()}
        chunk = max(1, pictures_at_once(source.resolution**2) // 4)
        self.images = open_or_fill(
            cache or cache_root(),
            key,
            len(source),
            lambda part: {"images": source.images(part)},
            chunk=chunk,
            progress=ticker("reading comparisons"),
        )
        self.ids, self.ranks = towers.tokens(source.prompts(rows)), source.ranks(rows)

    def __len__(self) -> int:
        return len(self.ranks)

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        images = self.images.rows("images", indices)
        return {"images": images, "ids": self.ids[indices], "ranks": self.ranks[indices]}


def run(config: dict[str, Any]) -> float:
    """Trains the reward, measures it on held-out pairs, writes the export; returns the accuracy."""
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        data = build(config["data"])
        job.say_data(data)
        torch.manual_seed(config["seed"])
        student: RewardModel = build(config["model"])
        stage = RewardLearner(student, build(config["loss"]), **job.common(data))
        rows = ComparisonRows(data.train, student.towers)
        job.fit(stage, rows, data, what="reward", tokens=rows.ids.shape[1])
        if not job.first:
            return 0.0
        with job.ema.applied(student):
            evaluation, scores = measured(student.eval(), data.val)
            evaluation.save(job.run.evaluation)
            facts = {
                "mean": float(scores.mean()),
                "std": max(float(scores.std()), 1e-6),
                "temperature": evaluation.metrics["reward/temperature"].value,
            }
            job.run.export.mkdir(parents=True, exist_ok=True)
            student.save(job.run.export, **facts)
        job.finish_foundation("reward", evaluation.scalars(), parents=[])
        show(evaluation, "Reward on held-out comparisons")
        return job.close(evaluation.metrics["reward/accuracy"].value)


def measured(model: RewardModel, source: Comparisons) -> tuple[Evaluation, Tensor]:
    """Accuracy and calibration on all decided pairs of a source, and the scores of all its images.

    Raises:
        ValueError: no pair is decided.
    """
    scores, ranks = scored(model, source)
    wins, _, _ = decisions(ranks)
    differences = (scores[:, :, None] - scores[:, None])[wins]
    if not len(differences):
        raise ValueError("data: no held-out pair is decided, so nothing can be said of the reward's accuracy")
    metrics = preference_metrics(differences, source.best_accuracy())
    return Evaluation(metrics, meta={"pictures": source.digest()}), scores[ranks >= 0]


@torch.no_grad()
def scored(model: RewardModel, source: Comparisons) -> tuple[Tensor, Tensor]:
    """Scores and ranks (n, K) of all comparisons, on the CPU."""
    device, found = device_of(model), []
    count = max(1, pictures_at_once(source.resolution**2) // 4)
    for part in torch.arange(len(source)).split(count):
        indices = part.tolist()
        images = source.images(indices).to(device).float() / 255
        found.append(model(images, model.towers.tokens(source.prompts(indices)).to(device)).cpu())
    return torch.cat(found), source.ranks(range(len(source)))
