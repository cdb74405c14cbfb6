"""The options of `stage=preference`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from t2ilab.build import Config, build
from t2ilab.config.limits import on_meta
from t2ilab.stages.faults import cannot_use, is_a, raised, split_batch
from t2ilab.stages.options.denoiser import FromModelOptions
from t2ilab.training.trial import unfit_latents


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions(FromModelOptions):
    """Of `stage=preference`.

    Attributes:
        skip_evaluated: leave out the pairs whose prompts evaluations draw.
    """

    skip_evaluated: bool = True
    reads: ClassVar[tuple[str, ...]] = ("pairs", "comparisons")

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        if (
            "loss" not in unsound
            and is_a(config["loss"], "t2ilab.objectives.preference.base.Preference") is False
        ):
            found.append(cannot_use(config, "loss", self.name, "dpo"))
        if "loss" not in unsound and is_a(config["loss"], "t2ilab.objectives.preference.losses.KTO"):
            found += split_batch(config, self.name)
        return found

    def _trial(self, config: Config) -> list[str]:
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
        found = unfit_latents(student, config, config["data"])
        found += raised(lambda: build(config["loss"]).bind(student, roles))
        return found + raised(lambda: build(config["sampler"]).check(path, prediction))
