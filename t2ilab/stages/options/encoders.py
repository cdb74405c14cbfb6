"""The options of the stages that train an autoencoder, a text encoder or a reward."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from t2ilab.build import Config, build
from t2ilab.config.limits import on_meta
from t2ilab.stages.faults import is_a, other_class, other_method, raised, split_batch
from t2ilab.stages.options.base import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(TrainingOptions):
    """Of `stage=autoencoder`.

    Attributes:
        freeze_encoder: only the decoder learns, so that latents stay what they are; wants `init_from`.
        principal: how many principal directions of the latents the export keeps; None for the latents as they are.
    """

    freeze_encoder: bool
    principal: int | None

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_class(config, "autoencoder", "t2ilab.latents.kl.KL", self.name, "kl_tiny")
        if config["data"].get("buckets"):
            found.append("data.buckets: stage=autoencoder learns from squares; choose data=folder")
        channels = config["autoencoder"].get("channels") or 0
        if self.principal is not None and not 1 <= self.principal <= channels:
            found.append(
                f"stage.principal={self.principal}: must be from 1 to autoencoder.channels={channels}, or null"
            )
        if self.freeze_encoder and config["loss"].get("latent_alignment"):
            found.append("loss.latent_alignment moves the encoder: set stage.freeze_encoder=false")
        found += other_method(config, "autoencoder", self.name, "reconstruction")
        return found if unsound or found else self._trial(config)

    def _trial(self, config: Config) -> list[str]:
        """What the autoencoder says of an image, and its pass through the networks beside, on the meta device."""
        resolution = config["data"].get("resolution")
        if resolution is None:
            return []
        with on_meta():
            rivals = [player.network for player in build(config["loss"]).players.values()]
            asked = [build(config["autoencoder"]).check_images, *rivals]
            image = torch.empty(1, 3, resolution, resolution)
            return [fault for one in asked for fault in raised(partial(one, image))]


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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
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
        size, resolution = config["model"].get("image_size"), config["data"].get("resolution")
        if size and resolution and size != resolution:
            found.append(
                f"model.image_size={size}: it has to be that of the images, data.resolution={resolution}; omit it"
            )
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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += other_method(config, "reward", self.name, "bradley_terry")
        model = "t2ilab.rewards.model.RewardModel"
        found += other_class(config, "model", model, self.name, "reward_clip")
        if self.samples_from and not is_a(config["data"], "t2ilab.data.comparisons.ScenesPreferences"):
            found.append(
                "stage.samples_from: images of a model are labelled by the utility of the built-in preferences, "
                "which only data=scenes_preferences knows: omit it"
            )
        return found if found or {"model", "loss"} & set(unsound) else self._spread(config)

    def _spread(self, config: Config) -> list[str]:
        """What the loss says of a model that is uncertain, or is not."""
        model = torch.nn.Module()
        model.uncertain = bool(config["model"].get("uncertain"))  # type: ignore[assignment]
        return raised(lambda: build(config["loss"]).bind(model))
