"""The options of stages that use finished models and train nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from t2ilab.build import Config
from t2ilab.stages.faults import idle_plan, is_a, other_class, other_data
from t2ilab.stages.options.base import StageOptions


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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = other_class(config, "trainer", "t2ilab.runs.machine.Device", self.name, "inference")
        found += [] if {"eval", "data"} & set(unsound) else idle_plan(config)
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
        copies: images of each prompt.
        batch_size: images at a time; changes nothing but memory and rounding.
        height, width: of the images in pixels; None for those of training. Networks draw other shapes well if they
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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        chooses = is_a(config["reward"], "t2ilab.rewards.base.NoReward") is False
        if self.images < 2 and chooses:
            found.append(
                f"stage.images={self.images}: a reward chooses among those of a prompt; 2 or more, or reward=null"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class CompareOptions(StageOptions):
    """Of `stage=compare`.

    Attributes:
        labels: what the runs are called; None for the part of their paths that differs.
    """

    labels: Sequence[str] | None = None
