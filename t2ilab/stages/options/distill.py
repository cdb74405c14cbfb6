"""The options of `stage=distill`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from t2ilab.build import Config, is_node, locate
from t2ilab.config.limits import on_meta
from t2ilab.core.denoiser import Denoiser
from t2ilab.objectives.base import Objective
from t2ilab.stages.faults import is_a, is_made_by, other_class, other_data
from t2ilab.stages.options.denoiser import FromModelOptions

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

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        wrong = other_class(config, "loss", f"{METHODS}.base.Distillation", self.name, "progressive")
        if wrong:
            return wrong
        smaller, opened = is_a(config["loss"], f"{METHODS}.kd.KD"), config["conditioner"] is not None
        found = []
        if smaller and config.get("adapter"):
            found.append("adapter: loss=kd makes another network, in which all weights learn; omit it")
        if not smaller and config["model"] is not None and not opened:
            found.append("model: the model of init_from decides it: omit it, or choose loss=kd")
        averages = is_made_by(config["optimizer"], "t2ilab.optim.schedule_free.schedule_free")
        if averages and is_a(config["loss"], f"{METHODS}.progressive.Progressive"):
            found.append(
                "optimizer: loss=progressive begins anew in every round, and optimizer=schedule_free averages the "
                "steps of the whole run; choose optimizer=adamw_sft"
            )
        looking = [name for name, node in (config["terms"] or {}).items() if "encoder" in node]
        if looking and self._from_pairs(config):
            found.append(
                f"terms: {', '.join(looking)} look at images, and data=pairs hold latents; omit them"
            )
        known = config if opened else {**config, "model": None}  # whose sizes are those of init_from
        return found + super().unfit(known, unsound)

    def other_data(self, config: Config) -> list[str]:
        """A method that learns from noise and image of one draw reads pairs, the others images."""
        if not is_node(config["loss"]):
            return super().other_data(config)
        method: Any = locate(config["loss"]["_target_"])
        reads = ("pairs",) if self._from_pairs(config) else self.reads
        return other_data(config, f"{self.name} with loss={getattr(method, 'name', '?')}", *reads)

    def _from_pairs(self, config: Config) -> bool:
        loss = config["loss"]
        return is_node(loss) and getattr(locate(loss["_target_"]), "from_pairs", False)

    def _bind(self, objective: Objective, denoiser: Denoiser, config: Config) -> None:
        from t2ilab.core.numbers import add_numbers
        from t2ilab.objectives.distill.base import Distillation
        from t2ilab.objectives.roles import Roles

        assert isinstance(objective, Distillation)
        teacher = Roles(teacher=denoiser)
        with on_meta():
            add_numbers(denoiser.backbone, objective.reads, config["conditioner"])
        objective.bind(denoiser, teacher)
        drawing = objective.drawing(denoiser.path)
        if drawing.kind is not None:
            from t2ilab.sampling.student import Student

            Student(drawing.kind, drawing.times).check(denoiser.path, denoiser.prediction)
