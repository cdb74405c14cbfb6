"""The options of pre-training and of the stages that train a finished denoiser further."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from t2ilab.build import Config, build
from t2ilab.config.limits import on_meta
from t2ilab.models.adapter_layers import matched
from t2ilab.stages.faults import adapter_faults, raised
from t2ilab.stages.options.base import DenoiserOptions


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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        return found if "adapter" in unsound else adapter_faults(config) + found

    def _trial(self, config: Config) -> list[str]:
        return self._unmatched(config) or super()._trial(config)

    def _unmatched(self, config: Config) -> list[str]:
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
