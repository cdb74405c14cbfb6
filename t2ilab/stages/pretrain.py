"""`stage=pretrain`: from random weights to a text-to-image model.

The training step is the objective of `loss=`, of the batch that `Pretrain.to_batch` makes. What is put together
before training and done after it is in `assembly.py`, which all stages that train a denoiser share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning import seed_everything

from t2ilab.build import Config, build
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.null_text import add_null_text
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.data.source import Rows
from t2ilab.objectives.base import Objective
from t2ilab.objectives.roles import Roles
from t2ilab.stages.assembly import Assembly, assemble, train
from t2ilab.training.job import Job
from t2ilab.training.latent_rows import FEATURES
from t2ilab.training.learner import Learner
from t2ilab.training.phases import dropout_of


class Pretrain(Learner):
    """A denoiser learns from latents and texts.

    Args:
        student, objective, common: as in Learner.
        null: the empty condition, one row.
        condition_dropout: share of rows whose text is replaced by the empty one, so that guidance can work; a
            number, or a function of the step.
    """

    def __init__(
        self,
        student: Denoiser,
        objective: Objective,
        *,
        null: Condition,
        condition_dropout: float | Callable[[int], float],
        **common: Any,
    ) -> None:
        super().__init__(student, objective, **common)
        self.null = null.trimmed()
        self.dropout = condition_dropout if callable(condition_dropout) else lambda step: condition_dropout
        if not 0 <= self.dropout(0) <= 1:
            raise ValueError(f"stage.condition_dropout must be in [0, 1], got {condition_dropout}")

    def on_before_batch_transfer(self, batch: Rows, dataloader_idx: int) -> dict[str, Any]:
        """Cuts the texts to the longest one of the micro-batch, where the mask can be read without waiting."""
        texts = Condition(batch["tokens"], batch["mask"]).trimmed()
        return batch | {"tokens": texts.tokens, "mask": texts.mask}

    def texts(self, rows: Rows) -> Condition:
        """What the network is told of these rows, before any is replaced by the empty text."""
        return Condition(rows["tokens"], rows["mask"], rows.get("pooled"))

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        condition = self.texts(rows)
        null = self.null.to(condition.tokens.device)
        keep = rng.uniform("condition dropout") >= self.dropout(rng.step)
        condition = condition.where(keep, null)
        if condition.tokens.device.type == "cpu":  # elsewhere padding is cheaper than a look at the mask
            condition = condition.trimmed()
        extras = {key.removeprefix(FEATURES): rows[key] for key in rows if key.startswith(FEATURES)}
        return Batch(rows["x0"], condition, null, extras)


def run(config: Config) -> float | None:
    """Trains, measures, exports and reports; returns judge/overall (or minus the held-out loss without a judge)."""
    if config["init_from"]:
        raise ValueError(
            f"stage=pretrain starts from random weights: omit init_from={config['init_from']}, or choose "
            "stage=continue or stage=sft, which train a model further"
        )
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        parts = assemble(job, lambda: make_denoiser(config))
        return train(job, parts, learner(job, parts))


def learner(
    job: Job, parts: Assembly, kind: type[Pretrain] = Pretrain, roles: Roles | None = None
) -> Pretrain:
    """What trains these parts, on their device.

    Args:
        roles: beside the student; None for those that every run has.
    """
    stage = kind(
        parts.denoiser,
        parts.objective,
        null=parts.null,
        condition_dropout=dropout_of(parts.phases),
        roles=roles or parts.roles(job),
        **job.common(parts.data),
    )
    return stage.to(parts.device)


def make_denoiser(config: Config) -> Denoiser:
    """The student with weights that are a function of the run's seed."""
    seed_everything(config["seed"], verbose=False)
    backbone = build(config["model"])
    add_null_text(backbone, config["conditioner"])
    times = {name: config["stage"][name] for name in ("time_scale", "time_offset")}
    return Denoiser(backbone, build(config["path"]), build(config["prediction"]), **times)
