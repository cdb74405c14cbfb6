"""`stage=evaluate`: measures a finished model, by the same code that measured it at the end of training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from t2ilab import __version__
from t2ilab.build import Config, build
from t2ilab.data.sets import DataSet
from t2ilab.eval.report import write_report
from t2ilab.eval.report_content import Cost, ReportContent
from t2ilab.eval.result import Evaluation, show
from t2ilab.measuring.measure import Measure
from t2ilab.measuring.wrap_up import headline
from t2ilab.runs.finished_model import data_node, open_model, sampler_node
from t2ilab.runs.folder import RunDir
from t2ilab.training.reconstruction import reconstruct


def run(config: Config) -> float:
    """Writes evaluation.json and report.html; returns judge/overall (or minus the held-out loss)."""
    run_dir = RunDir(config["run_dir"])
    run_dir.check(config)
    artifact, generate = open_model(config)
    manifest = artifact.manifest
    check_resolution((config["data"] or {}).get("resolution"), manifest["resolution"])
    data = build(data_node(config, manifest))
    check_resolution(data.val.resolution, manifest["resolution"])
    other = other_images(manifest, data, given=bool(config["data"]))
    if other:
        print(f"note: {other}", flush=True)
    with run_dir.claimed():
        run_dir.remember(config)
        measure = Measure(build(config["eval"]), data, generate.device)
        measure.reconstruction = reconstruct(data.train, generate.autoencoder)
        began = time.perf_counter()
        evaluation = measure(
            generate,
            {
                "weights": config["stage"]["weights"],
                "sampler": sampler_node(config, manifest),
                "guidance": config["guidance"] or manifest["nodes"]["guidance"],
                "precision": generate.precision,
                "export": manifest["files"],
                "model": artifact.opened.parents,
                "pictures": data.image_splits(),
                **({"other_pictures": other} if other else {}),
            },
        )
        measured = time.perf_counter()
        curve = measure.curve(generate)
        evaluation.save(run_dir.evaluation)
        which = " on other images than its run's" if other else ""
        show(evaluation, f"Evaluation of {config['init_from']}{which}", measure.caution)
        content = content_of(config, manifest, measure, evaluation)
        cost = Cost("evaluation", measured - began, f"{measure.evaluator.rows} images")
        write_report(
            run_dir.report, replace(content, notes=[other] if other else [], nfe=curve, costs=[cost])
        )
        print(
            f"evaluation: {run_dir.relative(run_dir.evaluation)}\nreport: {run_dir.relative(run_dir.report)}"
        )
        return headline(evaluation)


def content_of(
    config: Config, manifest: Mapping[str, Any], measure: Measure, evaluation: Evaluation
) -> ReportContent:
    """What the report shows of a model and its numbers."""
    return ReportContent(
        title=f"evaluation of {manifest['stage']}",
        stage="evaluate",
        subtitle=str(config["init_from"]),
        facts={
            "model": manifest["nodes"]["model"]["_target_"].rpartition(".")[2],
            "trained": f"{manifest['steps']} steps, {manifest['images']} images",
            "weights": config["stage"]["weights"],
            "data": measure.data.summary(),
        },
        evaluation=evaluation,
        caution=measure.caution,
        command=config["command"],
        reproduce={"version": __version__, "seed": measure.plan.seed},
    )


def check_resolution(data: int | None, model: int) -> None:
    """Refuses images of another size than the model draws.

    Args:
        data: pixels of the images; None if that is not known yet.

    Raises:
        ValueError: naming data.resolution.
    """
    if data not in (None, model):
        raise ValueError(
            f"the model draws images of {model} px, the data have {data} px: set data.resolution={model}"
        )


def other_images(manifest: dict[str, Any], data: DataSet, *, given: bool) -> str:
    """A sentence for the case that the images are not those of the run, or "".

    Args:
        given: whether the data were chosen here, and not left to the export.
    """
    now, before = data.image_splits(), manifest.get("pictures")
    if before is None:  # an export of earlier versions: one digest, which in a curriculum is of all phases
        known = not manifest.get("curriculum") and manifest.get("data_digest")
        changes = ["all of them together"] if known and known != data.digest() else []
    else:
        changes = [
            f"{name}: {before[name]['number']} then, {split['number']} now"
            for name, split in now.items()
            if split["digest"] != before[name]["digest"]
        ]
    if not changes:
        return ""
    which = f"the images or captions of {data.summary()} differ from those of the run ({'; '.join(changes)})"
    if given:
        return f"{which}, as the data given here are others; numbers of both must not be compared"
    return (
        f"{which}: the folder has changed since, its path means another one from here, or another version of Pillow "
        "reads it; numbers of both must not be compared. Data chosen on purpose are named with data=..."
    )
