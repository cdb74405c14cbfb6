"""The report of a chain: the same prompts down its steps, what was measured of each, cost and lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2ilab.build import Config
from t2ilab.chain.steps import Step, export_digest
from t2ilab.eval.grid import save_grid
from t2ilab.eval.page import data_uri, duration, page, title_of
from t2ilab.eval.result import Evaluation, Metric
from t2ilab.eval.runs import evaluation_in
from t2ilab.export.manifest import MANIFEST, write_text
from t2ilab.measuring.drawn import drawn, prompts_of

SIDE = 160
SHOWN = ("judge/", "compose/", "style", "diversity", "clip_score", "fd_", "loss/heldout", "reward/")


def write_chain_report(
    path: Path, steps: Sequence[Step], record: Mapping[str, Mapping[str, Any]], config: Config
) -> Path:
    """Draws the same prompts from the same noise with every step's model, and writes the page and `lifecycle.png`."""
    made = [step for step in steps if export_digest(step.folder)]
    manifests = {step.name: json.loads((step.folder / "export" / MANIFEST).read_text()) for step in made}
    drawing = [step for step in made if manifests[step.name]["kind"] == "denoiser"]
    prompts = list(config.get("prompts") or ()) or prompts_of([manifests[step.name] for step in drawing])
    images = {step.name: drawn(step.folder, prompts, config["seed"]) for step in drawing}
    if drawing:
        columns = [images[step.name][row].image for row in range(len(prompts)) for step in drawing]
        captions = [f"{step.name}: {prompt}" for prompt in prompts for step in drawing]
        save_grid(path.with_suffix(".png"), np.stack(columns), captions, columns=len(drawing))
    # what the others measure has nothing in common
    groups = [drawing, *([step] for step in made if step not in drawing)]
    tables = [(found, metric_rows(found)) for found in map(_evaluations, groups)]
    html = page(
        "lifecycle.html.j2",
        title=config["name"],
        steps=made,
        drawing=[step.name for step in drawing],
        prompts=prompts,
        images=images,
        tables=[(list(found), rows) for found, rows in tables if rows],
        title_of=title_of,
        manifests=manifests,
        lineage=[_lineage(step, manifests[step.name], record.get(step.name, {})) for step in made],
        total=sum(entry.get("seconds", 0.0) for entry in record.values()),
        command=config["command"],
        image=lambda image: data_uri(image, SIDE),
        duration=duration,
    )
    write_text(path, html)
    return path


def metric_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, dict[str, Metric]]]:
    """What was measured of the steps, a row for each metric with the steps that have it."""
    keys = dict.fromkeys(
        key
        for found in evaluations.values()
        for key in found
        if key.startswith(SHOWN) or key.endswith("/overall")
    )
    return [(key, {name: found[key] for name, found in evaluations.items() if key in found}) for key in keys]


def _evaluations(steps: Sequence[Step]) -> dict[str, Evaluation]:
    """Those that there are."""
    each = {step.name: evaluation_in(step.folder) for step in steps}
    return {name: found for name, found in each.items() if found}


def _lineage(step: Step, manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    digest = export_digest(step.folder)
    return {
        "name": step.name,
        "stage": manifest["stage"],
        "kind": manifest["kind"],
        "digest": (digest or "")[:12],
        "parents": {option: (found or "")[:12] for option, found in (entry.get("parents") or {}).items()},
        "from": {option: folder.name for option, folder in step.parents.items()},
        "steps": manifest.get("steps"),
        "seconds": entry.get("seconds", 0.0),
        "command": entry.get("command", ""),
        "has_report": (step.folder / "report.html").is_file(),
    }
