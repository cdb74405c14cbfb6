"""The options of each stage beside its groups, and whether the chosen parts fit together.

`conf/stage/<name>.yaml` is held against these classes before anything heavy is built. `unfit` looks further than
signatures: it puts the parts together on the meta device, where a network of any size costs neither memory nor
arithmetic, so that a model that cannot read its latents is refused before a picture is encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from t2ilab.build import build, is_node, locate
from t2ilab.config.limits import on_meta
from t2ilab.data.scenes.grammar import SUBJECT_WORD
from t2ilab.models.adapters import matched
from t2ilab.runs.login import login_fault
from t2ilab.stages.faults import (
    adapter_faults,
    callback_faults,
    cannot_use,
    class_token_faults,
    clock_faults,
    falling_rate,
    idle_rate,
    is_a,
    is_made_by,
    logger_faults,
    other_class,
    other_data,
    other_method,
    raised,
    split_batch,
    text_faults,
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

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
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

    def other_data(self, config: Mapping[str, Any]) -> list[str]:
        """A sentence if the rows of the data are not what is learned from."""
        return other_data(config, self.name, *self.reads)

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
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

    @property
    def meets_empty_text(self) -> bool:
        """Whether the model knows the empty text without being trained on it here."""
        return False

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_method(config, "denoiser", self.name, "flow_matching")
        if is_a(config["loss"], INVERSION) and not isinstance(self, PersonalizeOptions):
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
        if not (config["curriculum"] or self.meets_empty_text):
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

    def _trial(self, config: Mapping[str, Any]) -> list[str]:
        """What objective and sampler say, then a pass of the pictures of each phase on the meta device."""
        from t2ilab.core.denoiser import Denoiser
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

    def _bind(self, objective: Any, denoiser: Any, config: Mapping[str, Any]) -> None:
        objective.bind(denoiser)


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(DenoiserOptions):
    """Of `stage=pretrain`.

    Attributes:
        time_scale, time_offset: the network is told time_scale * t + time_offset.
    """

    time_scale: float
    time_offset: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.time_scale > 0:
            raise ValueError(f"stage.time_scale must be positive, got {self.time_scale}")


@dataclass(frozen=True, kw_only=True)
class FromModelOptions(DenoiserOptions):
    """Of a stage that trains the denoiser of `init_from` further, such as `stage=sft`.

    Attributes:
        trusted: packages, besides this one, whose classes the export may name.
        base: folder of the base of an adapter that has moved.
        merge_adapter: add the adapter of `init_from` to its base, instead of training it on.
    """

    trusted: Sequence[str]
    base: str | None = None
    merge_adapter: bool = False

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        return found if "adapter" in unsound else adapter_faults(config) + found

    def _trial(self, config: Mapping[str, Any]) -> list[str]:
        return self._unmatched(config) or super()._trial(config)

    def _unmatched(self, config: Mapping[str, Any]) -> list[str]:
        """Layers that an adapter names and the network has not."""
        if not config.get("adapter"):
            return []
        with on_meta():
            network = build(config["model"])
        return raised(lambda: matched(network, build(config["adapter"])))


@dataclass(frozen=True, kw_only=True)
class ContinueOptions(FromModelOptions):
    """Of `stage=continue`.

    Attributes:
        replay: share of every batch that comes from the data of `init_from`; 0 leaves them out.
    """

    replay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.replay < 1:
            raise ValueError(f"stage.replay must be at least 0 and below 1, got {self.replay}")


@dataclass(frozen=True, kw_only=True)
class PersonalizeOptions(FromModelOptions):
    """Of `stage=personalize`.

    Attributes:
        token: the rare word; None for one that the text encoder finds.
        class_name: what the subject is; None for the teddy bear of data=subject.
        class_images: number of images of the class.
        class_folder: folder of such images; None for one in the run folder.
        word_lr: rate of the vectors of a learned word, of loss=textual_inversion or of init_from; 0 leaves them.
        text_lr: rate of the text encoder; None leaves it.
        subjects: further ones, each with path, class_name and perhaps token; the data's other options are theirs too.
    """

    token: str | None
    class_name: str | None
    class_images: int
    class_folder: str | None
    word_lr: float = 0.005
    text_lr: float | None = None
    subjects: Sequence[Mapping[str, str]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.subjects or ():
            if not {"path", "class_name"} <= set(one) <= {"path", "class_name", "token"}:
                raise ValueError(
                    "stage.subjects: each needs path and class_name, and may have a token: "
                    f"stage.subjects=[{{path:CAT,class_name:cat}}], got {dict(one)}"
                )
        for name in ("word_lr", "text_lr"):
            if not (getattr(self, name) or 0.0) >= 0:
                raise ValueError(f"stage.{name} must be 0 or more, got {getattr(self, name)}")
        if self.class_images < 1:
            raise ValueError(f"stage.class_images must be at least 1, got {self.class_images}")

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += [] if {"loss", "optimizer", "ema"} & set(unsound) else self._text_faults(config)
        if "data" in unsound:
            return found
        if is_a(config["data"], "t2ilab.data.sets.Scenes"):
            if config["data"]["subset"] != "subject":
                found.append(
                    "data.subset: stage=personalize learns one subject: choose data=subject or data=folder"
                )
            if self.token not in (None, SUBJECT_WORD):
                found.append(
                    f"stage.token: the prompts that measure data=subject say {SUBJECT_WORD}: omit stage.token"
                )
        elif not self.class_name:
            found.append('stage.class_name: say what the subject is, stage.class_name="dog"')
        if self.subjects and not is_a(config["data"], "t2ilab.data.sets.Folder"):
            found.append("stage.subjects: several subjects are of data=folder, each with a folder of its own")
        if config["data"].get("buckets"):
            found.append("data.buckets: stage=personalize learns from squares; choose data=folder")
        return found

    def _text_faults(self, config: Mapping[str, Any]) -> list[str]:
        """What does not go with a word or a text encoder that trains."""
        inverts = is_a(config["loss"], INVERSION)
        found = text_faults(config) if inverts or self.text_lr is not None else []
        if self.text_lr is not None and is_made_by(config["optimizer"], "t2ilab.optim.prodigy.prodigy"):
            found.append(
                "optimizer: Prodigy finds one rate for all weights; with stage.text_lr choose optimizer=adamw_sft"
            )
        if inverts and config.get("adapter"):
            found.append(
                "adapter: loss=textual_inversion trains a word alone; omit adapter=, or give it to a run of "
                "loss=dreambooth that starts from this one"
            )
        if inverts and self.text_lr is not None:
            found.append("stage.text_lr: loss=textual_inversion trains a word alone; set stage.text_lr=null")
        if inverts and not self.word_lr > 0:
            found.append("stage.word_lr must be positive with loss=textual_inversion, got 0")
        return found

    @property
    def meets_empty_text(self) -> bool:
        """The model has met the empty text before; a few images would only become it."""
        return True


METHODS = "t2ilab.objectives.distill"


@dataclass(frozen=True, kw_only=True)
class DistillOptions(FromModelOptions):
    """Of `stage=distill`.

    Attributes:
        compare_steps: numbers of steps at which student and teacher are compared.
    """

    compare_steps: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(steps < 1 for steps in self.compare_steps):
            raise ValueError(
                f"stage.compare_steps must be positive step counts, got {list(self.compare_steps)}"
            )

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        wrong = other_class(config, "loss", f"{METHODS}.base.Distillation", self.name, "progressive")
        if wrong:
            return wrong
        smaller, opened = is_a(config["loss"], f"{METHODS}.kd.KD"), config["conditioner"] is not None
        found = []
        if smaller and config.get("adapter"):
            found.append("adapter: loss=kd makes another network, in which all weights learn; omit it")
        if not smaller and config["model"] is not None and not opened:
            found.append("model: the model of init_from decides it: omit it, or choose loss=kd")
        known = config if opened else {**config, "model": None}  # whose sizes are those of init_from
        return found + super().unfit(known, unsound)

    def other_data(self, config: Mapping[str, Any]) -> list[str]:
        """A method that learns from noise and image of one draw reads pairs, the others images."""
        if not is_node(config["loss"]):
            return super().other_data(config)
        method: Any = locate(config["loss"]["_target_"])
        reads = ("pairs",) if getattr(method, "from_pairs", False) else self.reads
        return other_data(config, f"{self.name} with loss={getattr(method, 'name', '?')}", *reads)

    def _bind(self, objective: Any, denoiser: Any, config: Mapping[str, Any]) -> None:
        from t2ilab.core.numbers import add_numbers
        from t2ilab.objectives.roles import Roles

        teacher = Roles(teacher=denoiser)
        with on_meta():
            add_numbers(denoiser.backbone, objective.reads, config["conditioner"])
        objective.bind(denoiser, teacher)
        drawing = objective.drawing(denoiser.path)
        if drawing.kind is not None:
            from t2ilab.sampling.student import Student

            Student(drawing.kind, drawing.times).check(denoiser.path, denoiser.prediction)


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(TrainingOptions):
    """Of `stage=autoencoder`.

    Attributes:
        freeze_encoder: only the decoder learns, so that latents stay what they are; wants `init_from`.
        principal: how many principal directions of the latents the export keeps; None for the latents as they are.
    """

    freeze_encoder: bool
    principal: int | None

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_class(config, "autoencoder", "t2ilab.latents.kl.KL", self.name, "kl_tiny")
        if config["data"].get("buckets"):
            found.append("data.buckets: stage=autoencoder learns from squares; choose data=folder")
        channels = config["autoencoder"].get("channels") or 0
        if self.principal is not None and not 1 <= self.principal <= channels:
            found.append(
                f"stage.principal={self.principal}: must be from 1 to autoencoder.channels={channels}, or null"
            )
        found += other_method(config, "autoencoder", self.name, "reconstruction")
        return found if unsound or found else self._trial(config)

    def _trial(self, config: Mapping[str, Any]) -> list[str]:
        """A picture's pass through the networks that learn beside the autoencoder, on the meta device."""
        resolution = config["data"].get("resolution")
        if resolution is None:
            return []
        with on_meta():
            rivals = build(config["loss"]).players.values()
            picture = torch.empty(1, 3, resolution, resolution)
            return [fault for rival in rivals for fault in raised(lambda r=rival: r.network(picture))]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(TrainingOptions):
    """Of `stage=encoder`.

    Attributes:
        tokenizer: `vocab_size`, entries of the vocabulary, and `length`, tokens per text.
        reading: weight of the questions about captions that the text tower answers; 0 leaves them out.
    """

    tokenizer: Mapping[str, int]
    reading: float

    def __post_init__(self) -> None:
        if self.reading < 0:
            raise ValueError(f"stage.reading must not be negative, got {self.reading}")
        if set(self.tokenizer) != {"vocab_size", "length"} or min(self.tokenizer.values()) < 1:
            raise ValueError(
                f"stage.tokenizer takes a positive vocab_size and length, got {dict(self.tokenizer)}"
            )

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        wanted = {
            "model": ("t2ilab.text.towers.TwoTowers", "two_towers"),
            "data": ("t2ilab.data.sets.Scenes", "scenes"),
        }
        found = [
            line
            for group, (target, choice) in wanted.items()
            for line in other_class(config, group, target, self.name, choice)
        ]
        found += other_method(config, "encoder", self.name, "contrastive")
        found = super().unfit(config, unsound) + found
        return found if unsound else found + split_batch(config, self.name)


@dataclass(frozen=True, kw_only=True)
class RewardOptions(TrainingOptions):
    """Of `stage=reward`.

    Attributes:
        samples_from: run or export folder of a model, on whose images the reward is measured too.
        samples_prompts, samples_images: held-out prompts, and images of each, that it draws.
    """

    reads: ClassVar[tuple[str, ...]] = ("comparisons",)
    samples_from: str | None = None
    samples_prompts: int = 200
    samples_images: int = 4

    def __post_init__(self) -> None:
        if self.samples_prompts < 2 or self.samples_images < 2:
            raise ValueError(
                "stage.samples_prompts and stage.samples_images must be at least 2, got "
                f"{self.samples_prompts} and {self.samples_images}"
            )

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_method(config, "reward", self.name, "bradley_terry")
        model = "t2ilab.rewards.model.RewardModel"
        found += other_class(config, "model", model, self.name, "reward_clip")
        if self.samples_from and not is_a(config["data"], "t2ilab.data.comparisons.ScenesPreferences"):
            found.append(
                "stage.samples_from: images of a model are labelled by the utility of the world, which only "
                "data=scenes_preferences knows: omit it"
            )
        return found if found or {"model", "loss"} & set(unsound) else self._spread(config)

    def _spread(self, config: Mapping[str, Any]) -> list[str]:
        """What the loss says of a model that is uncertain, or is not."""
        model = torch.nn.Module()
        model.uncertain = bool(config["model"].get("uncertain"))  # type: ignore[assignment]
        return raised(lambda: build(config["loss"]).bind(model))


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(StageOptions):
    """A stage that reads an export.

    Attributes:
        weights: `ema`, the averaged ones (which the run evaluated), `raw`, or `posthoc:<sigma_rel>`, an average
            of any width from the snapshots of a run with ema=power.
        trusted: packages, besides this one, whose classes the export may name.
        base: folder of the base of adapters that has moved.
        adapter_scale: factor on the adapter of init_from, or on each of several; None for 1.
    """

    weights: str
    trusted: Sequence[str]
    base: str | None = None
    adapter_scale: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        from t2ilab.averages.snapshots import posthoc_width

        posthoc_width(self.weights)

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = other_class(config, "trainer", "t2ilab.runs.machine.Device", self.name, "inference")
        return found + other_data(config, self.name, "images")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(InferenceOptions):
    """Of `stage=export`.

    Attributes:
        format: t2ilab, an export with adapters merged; or kohya, an adapter alone in the layout of kohya's tools.
    """

    format: str = "t2ilab"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in ("t2ilab", "kohya"):
            raise ValueError(f"stage.format must be t2ilab or kohya, got {self.format!r}")


@dataclass(frozen=True, kw_only=True)
class SampleOptions(InferenceOptions):
    """Of `stage=sample`.

    Attributes:
        copies: pictures of each prompt.
        batch_size: pictures at a time; changes nothing but memory and rounding.
        height, width: of the pictures in pixels; None for those of training. Networks draw other shapes well if they
            were trained on several (data=folder_buckets).
        negative_prompts: what guidance leads away from, one text or one for each prompt; None for the empty one.
    """

    negative_prompts: Sequence[str] | None
    copies: int
    batch_size: int
    height: int | None
    width: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.copies <= 65536:
            raise ValueError(f"stage.copies must be from 1 to 65536, got {self.copies}")
        if self.batch_size < 1:
            raise ValueError(f"stage.batch_size must be at least 1, got {self.batch_size}")
        for name in ("height", "width"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"stage.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PairsOptions(InferenceOptions):
    """Of `stage=pairs`.

    Attributes:
        prompts: training prompts that are drawn; their captions are taken one image after the other.
        images: drawn of each prompt.
        keep: `ends`, the best and the worst image of each prompt by the reward, or `all` with their scores.
        least_gap: a prompt whose best and worst scores differ by no more than this is a tie and is dropped.
        skip_evaluated: leave out the prompts and captions that evaluations draw.
        shard: prompts per file; a stopped run goes on behind the last whole file.
        batch_size: images at a time.
    """

    prompts: int
    images: int
    keep: str
    least_gap: float
    skip_evaluated: bool
    shard: int
    batch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "shard", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"stage.{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.images <= 256:
            raise ValueError(f"stage.images must be from 1 to 256, got {self.images}")
        if self.keep not in ("ends", "all"):
            raise ValueError(f"stage.keep must be ends or all, got {self.keep}")
        if self.least_gap < 0:
            raise ValueError(f"stage.least_gap must not be negative, got {self.least_gap}")

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        chooses = is_a(config["reward"], "t2ilab.rewards.base.NoReward") is False
        if self.images < 2 and chooses:
            found.append(
                f"stage.images={self.images}: a reward chooses among those of a prompt; 2 or more, or reward=null"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions(FromModelOptions):
    """Of `stage=preference`.

    Attributes:
        skip_evaluated: leave out the pairs whose prompts evaluations draw.
    """

    skip_evaluated: bool = True
    reads: ClassVar[tuple[str, ...]] = ("pairs", "comparisons")

    def unfit(self, config: Mapping[str, Any], unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        if (
            "loss" not in unsound
            and is_a(config["loss"], "t2ilab.objectives.preference.base.Preference") is False
        ):
            found.append(cannot_use(config, "loss", self.name, "dpo"))
        if "loss" not in unsound and is_a(config["loss"], "t2ilab.objectives.preference.losses.KTO"):
            found += split_batch(config, self.name)
        return found

    def _trial(self, config: Mapping[str, Any]) -> list[str]:
        """What the loss says of the model; the images that measure it are those of its own data."""
        from t2ilab.core.denoiser import Denoiser
        from t2ilab.core.frozen import Frozen
        from t2ilab.objectives.roles import Roles

        if found := self._unmatched(config):
            return found
        path, prediction = build(config["path"]), build(config["prediction"])
        with on_meta():
            student = Denoiser(build(config["model"]), path, prediction)
        roles = Roles(reference=Frozen(student))  # type: ignore[arg-type]
        found = raised(lambda: build(config["loss"]).bind(student, roles))
        return found + raised(lambda: build(config["sampler"]).check(path, prediction))


@dataclass(frozen=True, kw_only=True)
class CompareOptions(StageOptions):
    """Of `stage=compare`.

    Attributes:
        labels: what the runs are called; None for the part of their paths that differs.
    """

    labels: Sequence[str] | None = None
