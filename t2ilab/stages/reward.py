"""`stage=reward`: a CLIP learns which of several images for a prompt people prefer; export: kind reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from t2ilab.build import Config, build
from t2ilab.callbacks.progress import ticker
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.cache import cache_root, open_or_fill
from t2ilab.data.comparison_source import Comparisons
from t2ilab.data.scenes import Preferences
from t2ilab.data.source import Rows
from t2ilab.eval.preferences import preference_metrics
from t2ilab.eval.result import Evaluation, Metric, show
from t2ilab.eval.reward_probes import (
    by_uncertainty,
    expected_accuracy,
    length_bias,
    more_saturated,
    position_bias,
    saturation_bias,
)
from t2ilab.measuring.reward_samples import check_samples, on_samples
from t2ilab.objectives.gaussian_ranking import Link, decided_log_loss
from t2ilab.objectives.ranking import decisions
from t2ilab.rewards.model import RewardModel
from t2ilab.rewards.towers import Towers
from t2ilab.training.job import Job
from t2ilab.training.latent_rows import images_at_once, module_device, to_signed
from t2ilab.training.learner import Learner

SATURATED = 512  # comparisons whose first image is scored once more, more saturated


class RewardLearner(Learner):
    """A reward model learns from comparisons."""

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        return Batch(to_signed(rows["images"]), extras={name: rows[name] for name in ("ids", "ranks")})


class ComparisonRows:
    """Images, token ids and ranks of comparisons; the images are kept as bytes in the cache."""

    def __init__(self, source: Comparisons, towers: Towers) -> None:
        rows = range(len(source))
        key = {"kind": "comparisons", "source": source.digest()}
        chunk = max(1, images_at_once(source.resolution**2) // 4)
        self.images = open_or_fill(
            cache_root(),
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


def run(config: Config) -> float:
    """Trains the reward, measures it on held-out pairs, writes the export; returns the accuracy."""
    check_samples(config["stage"].get("samples_from"))
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        data = build(config["data"])
        job.say_data(data)
        job.check_data(data)
        check_decided(data.val)
        torch.manual_seed(config["seed"])
        student: RewardModel = build(config["model"])
        stage = RewardLearner(student, build(config["loss"]), **job.common(data))
        rows = ComparisonRows(data.train, student.towers)
        job.fit(stage, rows, data, what="reward", tokens=rows.ids.shape[1])
        if not job.first:
            return 0.0
        with job.ema.applied(student):
            evaluation, scores = measured(
                student.eval(), data.val, link=getattr(stage.objective, "link", None)
            )
            evaluation.metrics.update(of_samples(student, data.val, config))
            evaluation.save(job.run.evaluation)
            facts = {
                "mean": float(scores.mean()),
                "std": max(float(scores.std()), 1e-6),
                "temperature": evaluation.metrics["reward/temperature"].value,
            }
            job.finish_network("reward", evaluation.scalars(), lambda folder: student.save(folder, **facts))
        show(evaluation, "Reward on held-out comparisons")
        return job.close(evaluation.metrics["reward/accuracy"].value)


def check_decided(source: Comparisons) -> None:
    """Refuses held-out comparisons that say nothing, before anything is trained.

    Raises:
        ValueError: no pair is decided.
    """
    wins, _, _ = decisions(source.ranks(range(len(source))))
    if not wins.any():
        raise ValueError(
            f"data: all {len(source)} held-out comparisons are ties, so nothing could be said of the reward's "
            "accuracy: hold out more (data.val_size or data.val_share), or choose data in which somebody decides"
        )


def measured(
    model: RewardModel, source: Comparisons, *, link: Link | None = None
) -> tuple[Evaluation, Tensor]:
    """Accuracy, calibration and biases on all decided pairs of a source, and the scores of all its images.

    Args:
        link: of an uncertain model, for the log loss with its own spreads.
    """
    scores, ranks = scored(model, source)
    wins, _, _ = decisions(ranks)
    differences = (scores[:, :, None] - scores[:, None])[wins]
    metrics = preference_metrics(differences, source.best_accuracy())
    rows = range(len(source))
    if (odds := source.odds(rows)) is not None:
        metrics |= expected_accuracy(scores, odds)
    std = max(float(scores[ranks >= 0].std()), 1e-6)
    metrics["reward/position_bias"] = position_bias(scores, ranks)
    metrics["reward/length_bias"] = length_bias(scores, ranks, source.prompts(rows))
    few = range(min(SATURATED, len(source)))
    more, _ = scored(model, source, few, change=more_saturated)
    metrics["reward/saturation_bias"] = saturation_bias(scores[: len(few), 0], more[:, 0], std)
    if link is not None:
        metrics |= with_spread(model, source, differences, wins, link)
    return Evaluation(metrics, meta={"pictures": source.digest()}), scores[ranks >= 0]


def with_spread(
    model: RewardModel, source: Comparisons, differences: Tensor, wins: Tensor, link: Link
) -> dict[str, Metric]:
    """How well an uncertain model knows when it is right."""
    spread, _ = scored(model, source, ask=lambda images, ids: model.gaussian(images, ids)[1])
    total = (spread[:, :, None].square() + spread[:, None].square()).sqrt()[wins]
    loss = float(decided_log_loss(differences, total, link).mean())
    note = "log loss of the decided pairs by the spreads that the model itself says"
    found = {"reward/nll_spread": Metric(loss, None, None, len(total), note, "", False)}
    return found | by_uncertainty(differences, total)


def of_samples(model: RewardModel, source: Comparisons, config: Config) -> dict[str, Metric]:
    """What `stage.samples_from` asks for; nothing without it."""
    options = config["stage"]
    if not options.get("samples_from"):
        return {}
    print("drawing the images that the reward is measured on ...", flush=True)
    count = {name: options[f"samples_{name}"] for name in ("prompts", "images")}
    return on_samples(model, options["samples_from"], cast(Preferences, source), **count, seed=config["seed"])


@torch.no_grad()
def scored(
    model: RewardModel,
    source: Comparisons,
    rows: Sequence[int] | None = None,
    *,
    change: Callable[[Tensor], Tensor] = lambda images: images,
    ask: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores and ranks (n, K) of comparisons, on the CPU.

    Args:
        rows: which; None for all.
        change: done to the images (n, K, 3, h, w) in [0, 1] before.
        ask: (images, token ids) to numbers (n, K); None for the scores of the model.
    """
    device, found, ask = module_device(model), [], ask or model
    count = max(1, images_at_once(source.resolution**2) // 4)
    rows = range(len(source)) if rows is None else rows
    for part in torch.tensor(list(rows)).split(count):
        indices = part.tolist()
        images = change(source.images(indices).to(device).float() / 255)
        found.append(ask(images, model.towers.tokens(source.prompts(indices)).to(device)).cpu())
    return torch.cat(found), source.ranks(rows)
