"""What a finished run offers its user to do next, as commands."""

from __future__ import annotations

import shlex

from t2ilab.build import locate
from t2ilab.config.groups import key_of
from t2ilab.config.names import leaves
from t2ilab.data.sets import DataSet
from t2ilab.eval.report_content import NextStep
from t2ilab.objectives.distill.progressive import Progressive
from t2ilab.runs.record import follows_length
from t2ilab.training.job import Job


def next_steps(job: Job, data: DataSet) -> list[NextStep]:
    """Commands worth trying now."""
    run = shlex.quote(f"init_from={job.run.relative(job.run.path)}")
    prompt = data.preview_prompts()[0].replace("'", "").replace('"', "")
    return [
        NextStep("Draw your own prompts", f"python -m t2ilab stage=sample {run} 'prompts=[\"{prompt}\"]'"),
        NextStep("Measure again, with more prompts", f"python -m t2ilab stage=evaluate {run} eval=full"),
        *longer(job),
    ]


def longer(job: Job) -> list[NextStep]:
    """The command by which this very run goes on; none where its length divides it in phases or rounds.

    Other options that follow from the length stay as they were, as the run is the same one.
    """
    loss = job.config["loss"]
    method = locate(loss["_target_"])
    if job.config.get("curriculum") or (isinstance(method, type) and issubclass(method, Progressive)):
        return []
    planned = [f"{key}={value}" for key, value in leaves(loss, "loss") if follows_length(key)]
    own = [*planned, f"run_dir={job.run.relative(job.run.path)}"]
    own += [f"trainer.max_steps={2 * job.trainer.max_steps}"]
    names = [key_of(option) for option in own]
    given = [word for word in shlex.split(job.config["command"]) if key_of(word) not in names]
    return [NextStep("Train longer", shlex.join([*given, *own]))]
