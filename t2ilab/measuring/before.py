"""What a stage that starts from a finished model measures before its first step, and says of it at its end."""

from __future__ import annotations

import time
from typing import Any

from t2ilab.build import build
from t2ilab.data.cache import digest_of
from t2ilab.eval.compare import BeforeAfter, table
from t2ilab.eval.result import Evaluation
from t2ilab.export.manifest import write_json
from t2ilab.measuring.evaluation_cache import cache_file, store
from t2ilab.measuring.measure import Measure, Since
from t2ilab.pipeline import TextToImage
from t2ilab.training.job import Job
from t2ilab.training.start import Start


def since(start: Start, resolution: int, *, other_text: bool = False) -> Since:
    """The model that a stage starts from, with the data that it was trained on, as images of the stage's size.

    Args:
        other_text: whether the text encoder of the stage is another, or trains.
    """
    node, own = start.data, start.opened.nodes["conditioner"]
    try:
        data = None if node is None else build(node | {"resolution": resolution})
    except (ValueError, OSError) as error:
        print(f"note: what is forgotten of the data of init_from is not measured: {error}", flush=True)
        data = None
    return Since(start.plain, data, (lambda: build(own).eval()) if other_text else None)


def measured_before(job: Job, measure: Measure, generate: TextToImage, meta: dict[str, Any]) -> Evaluation:
    """The evaluation of the model that the stage starts from, kept as before.json and read from there on resume.

    Another plan, sampler or model than that of the file is measured anew, unless an earlier run has done so.
    """
    config, path = job.config, job.run.before
    keys = ("eval", "sampler", "guidance", "parents", "data")
    of = digest_of({key: config[key] for key in keys} | {"precision": generate.precision})
    if path.is_file():
        kept = Evaluation.load(path)
        if kept.meta.get("of") == of:
            return kept
    began = time.perf_counter()
    shared = cache_file(config, measure, generate, meta)
    if shared.is_file():
        print(f"an earlier run has measured the model as it is before the first step: {shared}", flush=True)
        evaluation = Evaluation.load(shared)
        evaluation.meta["of"] = of
    else:
        print("measuring the model before the first step ...", flush=True)
        evaluation = measure(generate, meta | {"of": of})
        evaluation.meta["seconds"] = round(time.perf_counter() - began, 1)
        store(evaluation, shared)
    evaluation.save(path)
    job.started += time.perf_counter() - began  # it is no preparation
    return evaluation


def compared(job: Job) -> BeforeAfter:
    """Writes changes.json and says what changed from before.json to evaluation.json."""
    from rich.console import Console

    found = BeforeAfter.of(Evaluation.load(job.run.before), Evaluation.load(job.run.evaluation))
    write_json(job.run.changes, found.to_json())
    Console().print(table(found.headlines()))
    print(found.text(), flush=True)
    return found
