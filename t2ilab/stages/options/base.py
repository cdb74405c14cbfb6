"""What the options of every stage share: of one that trains, and of one that trains a denoiser."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from t2ilab.build import Config, build
from t2ilab.config.limits import on_meta
from t2ilab.core.denoiser import Denoiser
from t2ilab.objectives.base import Objective
from t2ilab.runs.login import login_fault
from t2ilab.stages.faults import (
    callback_faults,
    cannot_use,
    class_token_faults,
    clock_faults,
    falling_rate,
    idle_plan,
    idle_rate,
    is_a,
    logger_faults,
    other_class,
    other_data,
    other_method,
    raised,
    uneven_batch,
    unseen_empty_text,
)
from t2ilab.training import curriculum
from t2ilab.training.trial import unfit_latents

INVERSION = "t2ilab.objectives.textual_inversion.TextualInversion"


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What every stage has.

    Attributes:
        name: part of the run folder's name, and written into the export.
        job: dotted name of the function that runs the stage.
        uses: groups and settings without which the stage cannot run.
        optional: groups and settings that it reads if they are given; all others must be omitted.
        inherits: groups that the model of init_from decides, so that they must be omitted too.
    """

    name: str
    job: str
    uses: Sequence[str]
    optional: Sequence[str] = ()
    inherits: Sequence[str] = ()

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        """What does not fit together, a sentence per fault.

        Args:
            config: groups by name, resolved.
            unsound: groups with a fault of their own, which are not to be built.
        """
        return []


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(StageOptions):
    """A stage with an optimizer."""

    reads: ClassVar[tuple[str, ...]] = ("images",)  # what the rows of its data are

    def other_data(self, config: Config) -> list[str]:
        """A sentence if the rows of the data are not what is learned from."""
        return other_data(config, self.name, *self.reads)

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = other_class(config, "trainer", "t2ilab.runs.machine.TrainerOptions", self.name, "default")
        found += self.other_data(config)
        found += [] if self.inherits else idle_rate(config)
        found += callback_faults(config) + logger_faults(config)
        found += [] if "logger" in unsound else login_fault((config["logger"] or {}).get("mirror"))
        return found if unsound or found else [*falling_rate(config), *uneven_batch(config)]


@dataclass(frozen=True, kw_only=True)
class DenoiserOptions(TrainingOptions):
    """Of a stage that trains a denoiser.

    Attributes:
        condition_dropout: share of rows trained with the empty text.
        preview_every: optimizer steps between preview grids.
        evaluate_every: optimizer steps between evaluations by the plan of `eval=`; 0: at the end only.
    """

    learns_words: ClassVar[bool] = False  # of the text encoder, as loss=textual_inversion does

    condition_dropout: float
    preview_every: int
    evaluate_every: int

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"stage.condition_dropout must be in [0, 1], got {self.condition_dropout}")
        if self.preview_every < 1:
            raise ValueError(f"stage.preview_every must be at least 1, got {self.preview_every}")
        if self.evaluate_every < 0:
            raise ValueError(f"stage.evaluate_every must be 0 or more, got {self.evaluate_every}")

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_method(config, "denoiser", self.name, "flow_matching")
        found += [] if {"eval", "data"} & set(unsound) else idle_plan(config)
        if is_a(config["loss"], INVERSION) and not self.learns_words:
            found.append(
                f"loss=textual_inversion is for stage=personalize, stage={self.name} trains a network"
            )
        if self.inherits and config["model"] is None:  # once more when the parts of the model are known
            return found
        if is_a(config["autoencoder"], "t2ilab.latents.kl.KL"):
            found.append(
                "autoencoder: this one has random weights; train it with stage=autoencoder, then choose it by "
                "autoencoder=scenes autoencoder.path=<its export>/vae autoencoder.channels="
                f"{config['autoencoder'].get('channels')} autoencoder.factor={config['autoencoder'].get('factor')}"
            )
        elif is_a((config["autoencoder"] or {}).get("vae"), "t2ilab.latents.kl.KL"):
            found.append(
                "autoencoder.vae: this one has random weights; autoencoder@autoencoder.vae=scenes is trained"
            )
        found += [] if {"autoencoder", "terms"} & set(unsound) else class_token_faults(config)
        found += clock_faults(config)
        if not (config["curriculum"] or self.inherits):  # a model that is trained on has met it before
            found += unseen_empty_text(config, self.condition_dropout)
        for other in ("t2ilab.text.towers.TwoTowers", "t2ilab.rewards.model.RewardModel"):
            if is_a(config["model"], other):
                found.append(cannot_use(config, "model", self.name, "dit_tiny"))
        early = is_a(config["guidance"], "t2ilab.core.autoguidance.EarlyGuidance")
        if early and config["ema"] and config["ema"].get("snapshot_at") is None:
            found.append(
                "guidance=early guides by an early snapshot of this run: ema.snapshot_at=0.25 keeps one"
            )
        found += curriculum.faults(config, unsound)
        return found if unsound or found else self._trial(config)

    def _trial(self, config: Config) -> list[str]:
        """What objective and sampler say, then a pass of the images of each phase on the meta device."""
        from t2ilab.training.phases import loss_of, phases_of, route

        path, prediction = build(config["path"]), build(config["prediction"])
        with on_meta():
            denoiser = Denoiser(build(config["model"]), path, prediction)
        phases = phases_of(config)
        found = raised(lambda: self._bind(build(loss_of(phases, config)), denoiser, config))
        found += raised(lambda: build(config["sampler"]).check(path, prediction))
        found += raised(lambda: build(config["guidance"]))
        found += unfit_latents(denoiser, config, config["data"])
        found += raised(lambda: route(denoiser.backbone, phases))
        for phase in phases if not found else ():
            if phase.data != config["data"] or phase.routing_share is not None:
                wrong = unfit_latents(denoiser, config, phase.data, step=phase.first)
                found += [f"curriculum.phases.{phase.name}: {line}" for line in wrong]
        return found

    def _bind(self, objective: Objective, denoiser: Denoiser, config: Config) -> None:
        objective.bind(denoiser)
