"""The end of a stage that makes a denoiser: evaluate, export, compare the export, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2ilab import __version__
from t2ilab.build import Node
from t2ilab.callbacks.evaluations import Evaluations
from t2ilab.core.phased import Phased
from t2ilab.core.timestep import TimestepSampler
from t2ilab.data.preference_found import Found
from t2ilab.data.sets import DataSet
from t2ilab.eval.nfe import NFEPoint
from t2ilab.eval.report import write_report
from t2ilab.eval.report_content import Cost, DataFacts, ReportContent
from t2ilab.eval.result import Evaluation, Metric, show
from t2ilab.export.denoiser import check_parity, save
from t2ilab.files import whole_folder
from t2ilab.measuring.before import compared
from t2ilab.measuring.drawn import final_images, untrained
from t2ilab.measuring.facts import facts_table, parameters, trained
from t2ilab.measuring.measure import Measure
from t2ilab.measuring.next_steps import next_steps
from t2ilab.pipeline import TextToImage
from t2ilab.training.fit import count
from t2ilab.training.job import Job
from t2ilab.training.learner import Learner
from t2ilab.training.phases import phases_of
from t2ilab.training.start import Start

Further = Callable[[TextToImage, Measure], Mapping[str, Metric]]
"""Further metrics of a finished model, beside those of the plan."""


def finish(
    job: Job,
    stage: Learner,
    generate: TextToImage,
    measure: Measure,
    evaluations: Evaluations,
    *,
    nodes: Mapping[str, Node],
    start: Start | None = None,
    before: Evaluation | None = None,
    further: Further | None = None,
) -> float:
    """Everything after the last step; returns the number that a sweep maximises.

    Args:
        start, before: the model that the stage began with, and its evaluation by the same measure.
        further: what is measured beside.
    """
    raw = {name: value.detach().clone() for name, value in generate.denoiser.backbone.state_dict().items()}
    with job.ema.applied(stage.student):
        began = time.perf_counter()
        print("measuring ...", flush=True)
        images = {"pictures": measure.data.image_splits()}
        apart = {} if further is None else {"apart": ["sampler", "guidance"]}  # a teacher has its own
        evaluation = measure(generate, describe(job, generate, weights="ema") | images | apart)
        if further is not None:
            evaluation.metrics.update(further(generate, measure))
        measured = time.perf_counter()
        curve = measure.curve(generate)
        drawn = time.perf_counter()
        evaluation.save(job.run.evaluation)
        evaluations.add(stage.steps_done, evaluation.scalars())
        facts = facts_of(job, stage, measure, evaluation, start)
        early = job.ema.early(job.run.averages)
        with whole_folder(job.run.export) as folder:
            save(folder, generate, nodes=nodes, facts=facts, raw=raw, early=early)
            check_parity(folder, generate, measure.data.preview_prompts()[:4])
    costs = costs_of(job, stage, measure.evaluator.rows, before, measured - began)
    costs.append(Cost("quality against steps", drawn - measured, f"{len(curve)} settings"))
    show(evaluation, "Evaluation (EMA weights)", measure.caution)
    if before is not None:
        compared(job)
    content = content_of(
        job, stage, generate, measure, evaluation=evaluation, before=before, curve=curve, costs=costs
    )
    write_report(job.run.report, content)
    made = {
        "samples": max(content.previews, default=None),
        "export": job.run.export,
        "report": job.run.report,
    }
    for what, path in made.items():
        if path:
            print(f"{what}: {job.run.relative(path)}")
    return headline(evaluation)


def costs_of(job: Job, stage: Learner, rows: int, before: Evaluation | None, seconds: float) -> list[Cost]:
    """How long each part of a run took; an evaluation draws `rows` images, the last one in `seconds`."""
    images = f"{rows} images"
    return [
        Cost("preparation", job.prepared, "latents, texts and timing; of the last start"),
        *([] if before is None else [Cost("evaluation before", before.meta["seconds"], images)]),
        Cost("training", job.seconds, f"{stage.steps_done} steps of {stage.batch_size} images"),
        Cost("previews, checkpoints", job.metrics.aside, "and evaluations, while it trained"),
        Cost("evaluation", seconds, images),
    ]


def facts_of(
    job: Job, stage: Learner, measure: Measure, evaluation: Evaluation, start: Start | None
) -> dict[str, Any]:
    """What the manifest of the export says of its making."""
    return {
        "stage": job.config["stage"]["name"],
        "parents": [] if start is None else [start.parent],
        "config": job.run.options,
        "steps": stage.steps_done,
        "images": stage.steps_done * stage.batch_size,
        "seconds": round(job.seconds, 3),
        "weights": {"trained": trained(stage), "all": parameters(stage)},
        "seed": job.config["seed"],
        "command": job.config["command"],
        "resolution": measure.data.train.resolution,
        "data": job.config["data"],
        "curriculum": job.config.get("curriculum"),
        "data_digest": measure.data.digest(),
        "pictures": measure.data.image_splits(),
        **measure.data.facts(),
        "evaluation": evaluation.scalars(),
    }


def write_draft(job: Job, stage: Learner, generate: TextToImage, measure: Measure) -> None:
    """Writes the report of a run that goes on, at every preview, so that a stopped one has a report too."""
    content = content_of(job, stage, generate, measure, evaluation=None, before=None, curve=[], costs=[])
    write_report(job.run.report, content)


def content_of(
    job: Job,
    stage: Learner,
    generate: TextToImage,
    measure: Measure,
    *,
    evaluation: Evaluation | None,
    before: Evaluation | None,
    curve: list[NFEPoint],
    costs: list[Cost],
) -> ReportContent:
    """What the report shows.

    Args:
        evaluation: None before the end of the run.
    """
    phases = phases_of(job.config)
    previews = sorted(job.run.samples.glob("step_*.png"))
    unfinished = f"This run is at step {stage.steps_done:,} of {job.trainer.max_steps:,}."
    return ReportContent(
        title=f"{job.config['stage']['name']}: {measure.data.summary()}",
        stage=job.config["stage"]["name"],
        subtitle=f"{count(parameters(stage))} parameters, {stage.steps_done} steps of {stage.batch_size} images",
        unfinished=unfinished if evaluation is None else "",
        final=final_images(previews[-1]) if previews else (),
        marks=marks(job, measure, previews) if measure.data.world else {},
        config=job.run.options,
        facts=facts_table(job, stage, generate, measure),
        evaluation=evaluation,
        before=before,
        across=before is not None,
        caution=measure.caution,
        reconstruction=job.run.reconstructions,
        few_steps=job.run.few_steps,
        metrics_csv=job.run.metrics,
        evaluations_csv=job.run.evaluations,
        density=density(stage, [phase.name for phase in phases]),
        sampler_times=generate.sampler.grid.times(generate.denoiser.path)[:-1].tolist(),
        phases={phase.first: phase.name for phase in phases[1:]},
        previews=previews,
        nfe=curve,
        data=data_facts(measure.data),
        costs=costs,
        command=job.config["command"],
        reproduce={"version": __version__, "seed": job.config["seed"], "data": measure.data.digest()[:12]},
        next_steps=next_steps(job, measure.data),
    )


def describe(job: Job, generate: TextToImage, *, weights: str) -> dict[str, Any]:
    """What the numbers of an evaluation depend on, as far as the model's side goes."""
    return {
        "weights": weights,
        "sampler": job.config["sampler"],
        "guidance": job.config["guidance"],
        "precision": generate.precision,
    }


def headline(evaluation: Evaluation) -> float:
    """judge/overall, or minus the held-out loss where there is no judge."""
    overall = evaluation.get("judge/overall")
    if overall:
        return overall.value
    loss = evaluation.get("loss/heldout")
    return -loss.value if loss else float("nan")


def density(
    stage: Learner, phases: Sequence[str] = (), points: int = 200
) -> dict[str, list[tuple[float, float]]]:
    """(t, density) of the times that the stage's objective draws, by the phases that draw so.

    One curve, "training", where no phase changes the times; none for an objective that draws no times.

    Args:
        phases: names of the run's phases, in their order.
    """
    timestep = getattr(getattr(stage, "objective", None), "timestep", None)
    if not isinstance(timestep, TimestepSampler):
        return {}
    if isinstance(timestep, Phased):
        samplers = dict(zip(phases, timestep.samplers, strict=True))
    else:
        samplers = {"training": timestep}
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    names: dict[tuple[float, ...], list[str]] = {}
    for name, sampler in samplers.items():
        names.setdefault(tuple(sampler.log_density(t).exp().tolist()), []).append(name)
    return {", ".join(same): list(zip(t.tolist(), curve, strict=True)) for curve, same in names.items()}


def marks(job: Job, measure: Measure, previews: Sequence[Path]) -> dict[str, Metric]:
    """What else stands on the scale of prompt accuracy: how the run began, and real images.

    A finished model that the run began with has the accuracy that was measured of it, over all prompts; of an
    untrained network the first preview says enough.
    """
    found: dict[str, Metric | None] = {}
    if not job.config["init_from"]:
        found["untrained network"] = untrained(previews[0]) if previews else None
    elif job.run.before.is_file():
        found["before"] = Evaluation.load(job.run.before).get("judge/overall")
    found["real images"] = measure.real_images
    return {name: metric for name, metric in found.items() if metric}


def data_facts(data: DataSet) -> DataFacts | None:
    """The report's form of the data report."""
    report = data.report()
    if report is None:
        return None
    if isinstance(report, Found):
        return DataFacts(
            report.found, report.used, dict(report.dropped), {}, report.notes(), what="comparisons"
        )
    drops: dict[str, list[str]] = {}
    for drop in report.images:
        drops.setdefault(str(drop.reason), []).append(drop.path)
    notes = report.notes()
    notes += [f"{drop.path}: {drop.reason}" for drop in (*report.captions[:20], *report.mended[:20])]
    return DataFacts(
        report.found,
        report.used,
        {reason: len(paths) for reason, paths in drops.items()},
        {reason: paths[:20] for reason, paths in drops.items()},
        notes,
    )
