"""`stage=evaluate`: measures a finished model, by the same code that measured it at the end of training."""

from __future__ import annotations

import time
from typing import Any

from t2ilab import __version__
from t2ilab.build import build
from t2ilab.eval.report import Cost, ReportContent, write_report
from t2ilab.eval.result import show
from t2ilab.stages.finish import headline
from t2ilab.stages.measure import Measure
from t2ilab.stages.reconstruction import reconstruct
from t2ilab.stages.rundir import RunDir
from t2ilab.stages.sample import open_model, sampler_node


def run(config: dict[str, Any]) -> float:
    """Writes evaluation.json and report.html; returns judge/overall (or minus the held-out loss)."""
    artifact, generate = open_model(config)
    manifest = artifact.manifest
    data = build(config["data"] or manifest["data"])
    check_resolution(data, manifest["resolution"])
    run_dir = RunDir(config["run_dir"])
    with run_dir.claimed():
        run_dir.remember(config)
        measure = Measure(
            build(config["eval"]),
            data,
            generate.device,
            reconstruction=reconstruct(data.train, generate.autoencoder),
        )
        began = time.perf_counter()
        evaluation = measure(
            generate,
            {
                "weights": config["stage"]["weights"],
                "sampler": sampler_node(config, manifest),
                "guidance": config["guidance"] or manifest["nodes"]["guidance"],
                "precision": generate.precision,
                "export": manifest["files"],
            },
        )
        measured = time.perf_counter()
        curve = measure.curve(generate)
        evaluation.save(run_dir.evaluation)
        show(evaluation, f"Evaluation of {config['init_from']}", measure.caution)
        content = ReportContent(
            title=f"evaluation of {manifest['stage']}",
            stage="evaluate",
            subtitle=str(config["init_from"]),
            facts={
                "model": manifest["nodes"]["model"]["_target_"].rpartition(".")[2],
                "trained": f"{manifest['steps']} steps, {manifest['images']} images",
                "weights": config["stage"]["weights"],
                "data": data.summary(),
            },
            evaluation=evaluation,
            caution=measure.caution,
            nfe=curve,
            costs=[Cost("evaluation", measured - began, f"{measure.evaluator.rows} pictures")],
            command=config["command"],
            reproduce={"version": __version__, "seed": measure.plan.seed},
        )
        write_report(run_dir.report, content)
        print(
            f"evaluation: {run_dir.relative(run_dir.evaluation)}\nreport: {run_dir.relative(run_dir.report)}"
        )
        return headline(evaluation)


def check_resolution(data: Any, resolution: int) -> None:
    """Refuses pictures of another size than the model draws.

    Raises:
        ValueError: naming data.resolution.
    """
    if data.val.resolution != resolution:
        raise ValueError(
            f"the model draws pictures of {resolution} px, the data have {data.val.resolution} px: "
            f"set data.resolution={resolution}"
        )
