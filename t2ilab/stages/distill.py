"""`stage=distill`: a student that draws in few steps, or with fewer parameters, what the model of init_from draws.

The method is `loss=`; which sampler and guidance the student is drawn with follows from it and is written into the
export. "Before" is the teacher as it draws by itself; `nfe/judge@N` compares both at a few steps, on the same prompts
and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from t2ilab.build import Config, Node, build
from t2ilab.config.signature import UNKNOWN
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.null_text import add_null_text
from t2ilab.core.numbers import tell
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.source import Rows
from t2ilab.export.denoiser import early_of, packages
from t2ilab.export.weak_model import provide
from t2ilab.measuring.few_steps import few_steps
from t2ilab.objectives.distill.base import Distillation, Drawing
from t2ilab.objectives.turns import STUDENT
from t2ilab.pipeline import TextToImage
from t2ilab.stages.assembly import Assembly, assemble, train
from t2ilab.stages.noise_pairs import NoisePairs
from t2ilab.stages.pretrain import Pretrain, learner
from t2ilab.training.job import Job
from t2ilab.training.start import Start


class Distill(Pretrain):
    """A student learns from a teacher; rounds of a method have an optimizer and a schedule of their own."""

    objective: Distillation

    def __init__(
        self,
        student: Denoiser,
        objective: Distillation,
        *,
        schedule: Callable[[int, int], float],
        **common: Any,
    ) -> None:
        def of_round(step: int, total: int) -> float:
            return schedule(*objective.place(step, total))

        super().__init__(student, objective, schedule=of_round, **common)

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        return replace(super().to_batch(rows, rng), eps=rows.get("eps"))

    def training_step(self, rows: Rows, index: int) -> Tensor | None:
        if self.turns is not None and self.objective.begins(self.steps_done):
            self.turns.optimizer_of(STUDENT).state.clear()
        return super().training_step(rows, index)

    def optimizer_step(self, epoch: int, index: int, optimizer: Any, closure: Any = None) -> None:
        if self.objective.begins(self.steps_done):
            optimizer.state.clear()
        super().optimizer_step(epoch, index, optimizer, closure)


def run(config: Config) -> float | None:
    """Distils the model of init_from; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    method: Distillation = build(config["loss"])
    own = start.parts(config)
    config = {**config, "model": completed(config["model"], own["model"])}
    model = method.student_model(own["model"], config["model"])
    drawn = student_nodes(method.drawing(build(own["path"])), own) | {"model": model}
    drawn |= {"data": start.own_data()} if method.from_pairs else {}
    with Job.open(config, start=start, inherited=own | drawn) as job:
        if (value := job.finished()) is not None:
            return value
        pairs = NoisePairs(build(config["data"]), start) if method.from_pairs else None
        parts = assemble(job, lambda: student_of(start, method, model), start, pairs)
        teacher = teacher_of(start, own, parts)
        roles = replace(parts.roles(job), teacher=teacher.denoiser, guidance=teacher.guidance)
        stage = learner(job, parts, Distill, roles)
        steps = config["stage"]["compare_steps"]
        compared = partial(few_steps, teacher=teacher, steps=steps, grid=job.run.few_steps)
        return train(job, parts, stage, start, teacher=(teacher, own), further=compared)


def completed(chosen: Node | None, teacher: Node) -> dict[str, Any] | None:
    """The node of `model=` with the sizes that the teacher's latents and texts decide."""
    if chosen is None:
        return None
    return {key: teacher.get(key) if value == UNKNOWN else value for key, value in chosen.items()}


def student_of(start: Start, method: Distillation, model: Node) -> Denoiser:
    """The student as it begins: the teacher, told more if the method says so, or a network of another shape."""
    if model == start.opened.nodes["model"]:
        return start.student(reads=method.reads)
    teacher, conditioner = start.student(), start.opened.nodes["conditioner"]
    backbone = build(model)
    add_null_text(backbone, conditioner)
    tell(backbone, (*teacher.reads, *method.reads), conditioner)
    method.take_over(backbone, teacher.backbone)
    times = {"time_scale": teacher.time_scale, "time_offset": teacher.time_offset}
    return Denoiser(backbone, teacher.path, teacher.prediction, **times)


def student_nodes(drawing: Drawing, own: Node) -> dict[str, Any]:
    """The nodes of the sampler and the guidance that a student is drawn with.

    Args:
        own: nodes of the teacher's parts.
    """
    sampler = own["sampler"]
    guidance: dict[str, Any] = {"_target_": "t2ilab.core.guidance.NoGuidance"}
    if drawing.kind is not None:
        times = list(drawing.times)
        sampler = {"_target_": "t2ilab.sampling.student.Student", "kind": drawing.kind, "times": times}
    if drawing.scale is not None:
        guidance = {"_target_": "t2ilab.core.guidance.Embedded", "scale": drawing.scale}
    return {"sampler": sampler, "guidance": own["guidance"] if drawing.as_teacher else guidance}


def teacher_of(start: Start, nodes: Mapping[str, Node], parts: Assembly) -> TextToImage:
    """The teacher with its own sampler and guidance, which shares its encoders with the student."""
    teacher = start.frozen().module.to(parts.device)
    chosen = {name: build(nodes[name]) for name in ("sampler", "guidance")}
    provide(
        chosen["guidance"],
        nodes,
        parts.generate.latent_shape,
        early=early_of(start.opened.folder),
        device=parts.device,
        trusted=packages(nodes),
    )
    generate = parts.generate.with_(denoiser=teacher, **chosen)
    generate.check()
    return generate
