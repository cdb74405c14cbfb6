"""`stage=pretrain`: from random weights to a text-to-image model.

The training step is `Pretrain.losses`: condition dropout, then the objective of `loss=`. Everything else here
puts the parts together before training and measures, exports and reports after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning import seed_everything
from torch import Tensor, nn

from t2ilab.artifact import packages
from t2ilab.averages.snapshots import EARLY
from t2ilab.build import build
from t2ilab.callbacks.phases import PhaseLines
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.data.joined import JoinedRows
from t2ilab.data.source import Source
from t2ilab.generate import TextToImage
from t2ilab.latents.base import Autoencoder
from t2ilab.manifest import identity
from t2ilab.objectives.base import Losses, Objective
from t2ilab.objectives.terms.base import Averaged
from t2ilab.stages.base import Stage
from t2ilab.stages.finish import finish
from t2ilab.stages.job import Job, freeze
from t2ilab.stages.machine import device_of
from t2ilab.stages.measure import Measure
from t2ilab.stages.phases import data_of, dropout_of, lines_of, loss_of, phases_of, route
from t2ilab.stages.rows import FEATURES, LatentRows, joined_rows, pictures_at_once, to_signed
from t2ilab.stages.rows import device_of as rows_device
from t2ilab.weaker import provide

PARTS = ("model", "path", "prediction", "autoencoder", "conditioner", "sampler", "guidance")


class Pretrain(Stage):
    """A denoiser learns from latents and texts.

    Args:
        denoiser: the student.
        objective: bound to the student; what it trains beside it are the stage's helpers.
        null: the empty condition, one row.
        condition_dropout: share of rows whose text is replaced by the empty one, so that guidance can work; a
            number, or a function of the step.
        averaged: gives the EMA weights, for terms that learn from them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        *,
        null: Condition,
        condition_dropout: float | Callable[[int], float],
        averaged: Averaged | None = None,
        **common: Any,
    ) -> None:
        objective.bind(denoiser, averaged=averaged)
        super().__init__(denoiser, helpers=objective, **common)
        self.null = null.trimmed()
        self.dropout = condition_dropout if callable(condition_dropout) else lambda step: condition_dropout
        if not 0 <= self.dropout(0) <= 1:
            raise ValueError(f"stage.condition_dropout must be in [0, 1], got {condition_dropout}")

    @property
    def objective(self) -> Objective:
        """What the helpers of this stage are: the objective, with whatever learns in it."""
        assert isinstance(self.helpers, Objective)
        return self.helpers

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Cuts the texts to the longest one of the micro-batch, where the mask can be read without waiting."""
        texts = Condition(batch["tokens"], batch["mask"]).trimmed()
        return batch | {"tokens": texts.tokens, "mask": texts.mask}

    def losses(self, batch: dict[str, Any], rng: RowRng) -> Losses:
        condition = Condition(batch["tokens"], batch["mask"], batch.get("pooled"))
        null = self.null.to(condition.tokens.device)
        keep = rng.uniform("condition dropout") >= self.dropout(rng.step)
        condition = condition.where(keep, null)
        if condition.tokens.device.type == "cpu":  # elsewhere padding is cheaper than a look at the mask
            condition = condition.trimmed()
        extras = {key.removeprefix(FEATURES): batch[key] for key in batch if key.startswith(FEATURES)}
        return self.objective(Batch(batch["x0"], condition, null, extras), "student", rng)


def run(config: dict[str, Any]) -> float | None:
    """Trains, measures, exports and reports; returns judge/overall (or minus the held-out loss without a judge)."""
    if config["init_from"]:
        raise ValueError("stage=pretrain starts from random weights: omit init_from")
    with Job.open(config) as job:
        if (value := job.finished()) is not None:
            return value
        device = device_of(job.trainer)  # what reads small files comes first: a wrong one is known at once
        autoencoder = freeze(build(config["autoencoder"]), device)
        conditioner = freeze(build(config["conditioner"]), device)
        phases = phases_of(config)
        data = data_of(phases, config)
        job.say_data(data)
        encoders = {"autoencoder": autoencoder, "conditioner": conditioner}
        denoiser = make_denoiser(config).to(device)
        route(denoiser.backbone, phases)
        objective = build(loss_of(phases, config))
        rows = rows_of(config, data, encoders, feature_encoders(objective, config["terms"], device))
        null = conditioner.null(1)
        if not job.first:  # only the first process draws pictures
            for network in encoders.values():
                network.cpu()
        nodes = {name: config[name] for name in PARTS}
        generate = picture_maker(nodes, job, denoiser, encoders, data.train.resolution)
        stage = Pretrain(
            denoiser,
            objective,
            null=null,
            condition_dropout=dropout_of(phases),
            averaged=lambda: job.ema.shadow,
            **job.common(data),
        ).to(device)
        previews = job.previews(
            generate, config["prompts"] or data.preview_prompts(), every=config["stage"]["preview_every"]
        )
        measure = Measure(build(config["eval"]), data, device) if job.first else None
        evaluations = job.evaluations(
            lambda: measure(generate).scalars() if measure else {}, every=config["stage"]["evaluate_every"]
        )
        job.fit(
            stage,
            rows,
            data,
            what=config["stage"]["name"],
            tokens=generate.tokens,
            callbacks=[previews, evaluations, PhaseLines(lines_of(phases))],
        )
        if measure is None:
            return None
        return job.close(finish(job, stage, generate, measure, evaluations, nodes=nodes))


def rows_of(
    config: dict[str, Any], data: Any, encoders: dict[str, Any], features: Mapping[str, Any]
) -> JoinedRows:
    """Latents, texts and features of all sources, from the cache or encoded now.

    Raises:
        ValueError: latents are far from unit variance.
    """
    check_latents(data.train, encoders["autoencoder"])
    digests = {name: identity(config[name]) for name in encoders}
    encode = partial(LatentRows, **encoders, identity=digests, seed=config["seed"], features=features)
    return joined_rows(data.sources(), encode)


def picture_maker(
    nodes: dict[str, Any], job: Job, denoiser: Denoiser, encoders: dict[str, Any], resolution: int
) -> TextToImage:
    """How previews, evaluations and the export draw, around the network in training."""
    autoencoder = encoders["autoencoder"]
    edge = resolution // autoencoder.factor
    generate = TextToImage(
        denoiser,
        **encoders,
        sampler=build(nodes["sampler"]),
        guidance=build(nodes["guidance"]),
        latent_shape=(autoencoder.channels, edge, edge),
        precision=job.trainer.precision,
    )
    early = job.run.averages / EARLY  # there is none yet, and guidance=early waits for it
    fits = {"early": early, "device": generate.device, "trusted": packages(nodes)}
    provide(generate.guidance, nodes, generate.latent_shape, **fits)
    return generate


def make_denoiser(config: dict[str, Any]) -> Denoiser:
    """The student with weights that are a function of the run's seed."""
    seed_everything(config["seed"], verbose=False)
    backbone = build(config["model"])
    return Denoiser(
        backbone, build(config["path"]), build(config["prediction"]), time_scale=config["stage"]["time_scale"]
    )


def feature_encoders(
    objective: Objective, nodes: dict[str, Any] | None, device: torch.device
) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """The encoders that terms want clean pictures seen by, with what identifies their output, by the term's name."""
    made = {name: term.make_encoder for name, term in getattr(objective, "further", {}).items()}
    return {
        name: (freeze(make(), device), identity((nodes or {})[name]["encoder"]))
        for name, make in made.items()
        if make is not None
    }


@torch.no_grad()
def check_latents(source: Source, autoencoder: Autoencoder, sample: int = 256) -> Tensor:
    """Refuses latents whose scale is off: a wrong factor would spoil training without any other sign.

    Raises:
        ValueError: the standard deviation over the first pictures is below 1/2 or above 2.
    """
    device = rows_device(autoencoder)
    parts = torch.arange(min(sample, len(source))).split(pictures_at_once(source.resolution**2))
    pictures = (to_signed(source.images(part.tolist()).to(device)) for part in parts)
    latents = torch.cat([autoencoder.encode(part).float().cpu() for part in pictures])
    std = latents.std()
    if not 0.5 < std < 2:
        raise ValueError(
            f"the latents have standard deviation {std:.3f}, it should be near 1: for these images choose "
            f"{autoencoder.fitting(latents) or 'another autoencoder'}"
        )
    return std
