"""What the stages that train a denoiser put together around their method, and what they do once it stands.

`assemble` makes data, encoders, network, objective, rows and the image maker from the config nodes; the stage makes
its learner of them; `train` adds previews and evaluations, trains, and measures, exports and reports at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from lightning import seed_everything
from torch import nn

from t2ilab.build import Config, Node, build
from t2ilab.callbacks.phases import PhaseLines
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.types import Condition
from t2ilab.data.sets import DataSet
from t2ilab.data.source import RowProvider
from t2ilab.eval.result import Evaluation
from t2ilab.measuring.before import measured_before, since
from t2ilab.measuring.carries import captions, check_concept
from t2ilab.measuring.measure import Measure, Since
from t2ilab.measuring.wrap_up import Further, describe, finish, write_draft
from t2ilab.models.injection import injected, line
from t2ilab.objectives.base import Objective
from t2ilab.objectives.roles import Roles
from t2ilab.pipeline import TextToImage
from t2ilab.runs.machine import device_of
from t2ilab.stages.learned import Learned
from t2ilab.stages.parts import PARTS, feature_encoders, image_maker, rows_of
from t2ilab.text.learned import is_learned
from t2ilab.training.fit import count
from t2ilab.training.fitting import fitted
from t2ilab.training.job import Job, freeze
from t2ilab.training.learner import Learner
from t2ilab.training.phases import Phase, data_of, lines_of, loss_of, phases_of, route
from t2ilab.training.reconstruction import Reconstruction
from t2ilab.training.start import Start, WeightChange


@dataclass(frozen=True)
class Assembly:
    """The parts of a run that trains a denoiser, all but its learner.

    Attributes:
        nodes: config nodes of the parts that draw, by their names in PARTS: what the export is rebuilt from.
        phases, data: of the curriculum, or one.
        denoiser: the student; objective: not yet bound to it.
        encode: gives latents, texts and features of all sources, from the cache or encoded now.
        null: the empty condition, one row.
        generate: draws with the student as it is at the moment.
        device: of the training.
        reconstruction: what the autoencoder keeps of training images; None in all processes but the first.
        since: what a stage that starts from a model measures beside; None in all processes but the first.
        rewards: that score the images of evaluations, by name.
    """

    nodes: Mapping[str, Node]
    phases: Sequence[Phase]
    data: DataSet
    denoiser: Denoiser
    objective: Objective
    encode: Callable[[], RowProvider]
    null: Condition
    generate: TextToImage
    device: torch.device
    reconstruction: Reconstruction | None
    since: Since | None = None
    rewards: Mapping[str, nn.Module] = field(default_factory=dict)

    @cached_property
    def rows(self) -> RowProvider:
        """What a training step reads. Asked for last: what is wrong with anything else is said before."""
        return self.encode()

    def roles(self, job: Job) -> Roles:
        """What a method may look at beside its student."""
        return Roles(averaged=lambda: job.ema.shadow, autoencoder=self.generate.autoencoder)


def assemble(
    job: Job,
    make_denoiser: Callable[[], Denoiser],
    start: Start | None = None,
    learned: Learned | None = None,
) -> Assembly:
    """Builds the parts of the job's config.

    Args:
        make_denoiser: gives the student, on the CPU.
        start: the model that the student comes from.
        learned: what is learned from in place of the images of the config's data, which then measure alone.

    Raises:
        ValueError: its encoders cannot carry the data.
    """
    config = job.config
    nodes: Mapping[str, Node] = {name: config[name] for name in PARTS}
    device = device_of(job.trainer)  # what reads small files comes first: a wrong one is known at once
    autoencoder = freeze(build(nodes["autoencoder"]), device)
    conditioner = freeze(build(nodes["conditioner"]), device)
    phases = phases_of(config)
    data = data_of(phases, config) if learned is None else learned.measured_by(data_of(phases, config))
    job.say_data(data)
    job.check_data(data)
    nodes = fitted(nodes, autoencoder, data.train, job.run)
    look = job.say_reconstruction(data.train, autoencoder) if job.first else None
    encoders = {"autoencoder": autoencoder, "conditioner": conditioner}
    old = _since(start, config, data, encoders) if start and job.first else None
    seed_everything(config["seed"], verbose=False)  # of what is random in the network and the objective
    denoiser = make_denoiser().to(device)
    if job.first and injected(denoiser.backbone):
        print(line(denoiser.backbone, count), flush=True)
    route(denoiser.backbone, phases)
    objective = build(loss_of(phases, config))
    features = feature_encoders(objective, config["terms"], device)

    def encode() -> RowProvider:
        found: RowProvider = (
            rows_of(nodes, data, encoders, features, seed=config["seed"])
            if learned is None
            else learned.rows(encoders, nodes)
        )
        features.clear()  # what is behind takes their memory
        return found

    null = conditioner.null(1)
    generate = image_maker(nodes, job, denoiser, encoders, data.train.resolution)
    return Assembly(nodes, phases, data, denoiser, objective, encode, null, generate, device, look, old)


def _since(start: Start, config: Config, data: DataSet, encoders: Mapping[str, Any]) -> Since:
    """The model that the run starts from, and what it was trained on.

    Raises:
        ValueError: the encoders lose what is new in the data.
    """
    old = since(start, data.val.resolution, other_text=other_text(config, start))
    check_concept(data, [] if old.data is None else captions(old.data.train), **encoders)
    return old


def other_text(config: Config, start: Start) -> bool:
    """Whether the text encoder of a run is another than that of the model it starts from, or trains."""
    node, stage = config["conditioner"], config["stage"]
    words = is_learned(node) and stage.get("word_lr", 0.0) > 0
    return bool(node != start.opened.nodes["conditioner"] or words or stage.get("text_lr") is not None)


def train(
    job: Job,
    parts: Assembly,
    stage: Learner,
    start: Start | None = None,
    *,
    teacher: tuple[TextToImage, dict[str, Any]] | None = None,
    further: Further | None = None,
) -> float | None:
    """Trains the learner of a stage with previews and evaluations, then measures, exports and reports.

    Args:
        start: the model that the student comes from; its average begins there too.
        teacher: what is measured before the first step in place of the student as it begins, with its nodes.
        further: metrics of the finished student, beside those of the plan.

    Returns:
        judge/overall, or minus the held-out loss without a judge; None in all processes but the first.
    """
    config, options, generate = job.config, job.config["stage"], parts.generate
    if start is not None:
        _begin(job, stage, start)
    prompts = config["prompts"] or parts.data.preview_prompts()
    previews = job.previews(generate, prompts, every=options["preview_every"])
    measure = _measure(job, parts) if job.first else None
    evaluations = job.evaluations(
        lambda: measure(generate).scalars() if measure else {}, every=options["evaluate_every"]
    )
    rows = parts.rows
    if not job.first:
        let_go(parts.generate.conditioner, stage)
    earlier = _before(job, measure, *(teacher or (generate, {}))) if measure and start else None
    if measure is not None:
        previews.then = partial(write_draft, job, stage, generate, measure)
    job.fit(
        stage,
        rows,
        parts.data,
        what=options["name"],
        tokens=generate.tokens,
        callbacks=[previews, evaluations, PhaseLines(lines_of(parts.phases))],
    )
    if measure is None:
        return None
    return job.close(
        finish(
            job,
            stage,
            generate,
            measure,
            evaluations,
            nodes=parts.nodes,
            start=start,
            before=earlier,
            further=further,
        )
    )


def let_go(conditioner: nn.Module, stage: Learner) -> None:
    """Frees the text encoder of a process that neither draws nor measures, unless it trains with the student.

    The autoencoder stays in every process: a loss may look through it.
    """
    if conditioner not in set(stage.modules()):
        conditioner.to("meta")


def _begin(job: Job, stage: Learner, start: Start) -> None:
    """Lets the average begin as the model of the start, from which the weights' change is counted."""
    if job.first and (told := start.other_times(job.config)):
        print(told, flush=True)
    job.ema.start(stage.student)
    job.metrics.more = WeightChange(stage.student)


def _measure(job: Job, parts: Assembly) -> Measure:
    return Measure(
        build(job.config["eval"]),
        parts.data,
        parts.device,
        reconstruction=parts.reconstruction,
        since=parts.since,
        rewards=parts.rewards,
    )


def _before(job: Job, measure: Measure, drawer: TextToImage, nodes: Mapping[str, Node]) -> Evaluation:
    """What is measured before the first step, of a model whose sampler and guidance may be its own."""
    own = {name: nodes[name] for name in ("sampler", "guidance") if name in nodes}
    return measured_before(job, measure, drawer, describe(job, drawer, weights="ema") | own)
