"""One HTML file that says what a run did: numbers, images, curves, cost, and how to go on.

What it says is a `ReportContent`; what is absent there leaves its section out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t2ilab.build import Config
from t2ilab.core.characters import whole
from t2ilab.eval import answer, curves
from t2ilab.eval.alignment import task_order
from t2ilab.eval.compare import BeforeAfter, Change, compare
from t2ilab.eval.few_steps_charts import few_steps_charts, few_steps_images
from t2ilab.eval.gallery import best_and_worst
from t2ilab.eval.grid import Grid, read_grid
from t2ilab.eval.page import TITLES, data_uri, page, title_of
from t2ilab.eval.report_content import ReportContent
from t2ilab.eval.result import Evaluation, Metric, significant
from t2ilab.eval.runs import Run
from t2ilab.eval.side_by_side import curve_charts
from t2ilab.files import whole_file

LIMIT = 3_000_000  # bytes of a report; images are shrunk until it fits
_SIDES = (160, 112, 80, 56, 40)  # longest sides of an image that are tried
_COLUMNS, _ROWS = 7, 8  # of the images over training

TRAINING = ("train/lr", "train/grad_norm", "train/images_per_s")  # curves beside those of the loss
_NO_HEADLINE = ("kid_clip", "reconstruction/psnr", "close_calls")
_SUITES = {"judge": "Prompts", "compose": "Attribute combinations never seen in training"}


def write_report(path: str | Path, content: ReportContent) -> Path:
    """Writes the file atomically and returns its path; images shrink until it is below 3 MB."""
    path = Path(path)
    html = ""
    for side in _SIDES:
        html = whole(render(content, side))  # names and prompts may hold what UTF-8 cannot
        if len(html.encode()) < LIMIT:
            break
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def render(content: ReportContent, side: int = _SIDES[0]) -> str:
    """The page, its images at most `side` pixels."""
    columns: dict[str, curves.Column] = {}
    for log in (content.metrics_csv, content.evaluations_csv):
        columns |= curves.read_metrics(log) if log is not None and Path(log).is_file() else {}
    before, after = content.before, content.evaluation
    changes = compare(before, after) if before and after else []
    by_key = {change.key: change for change in changes}
    stage = BeforeAfter.of(before, after) if before and after and changes and content.across else None
    return page(
        "report.html.j2",
        content=content,
        headline=_headline(content, by_key),
        sentence=answer.answer(content.evaluation) if content.evaluation else "",
        accuracy=content.evaluation.get("judge/overall") if content.evaluation else None,
        failures=answer.failures(content.evaluation) if content.evaluation else [],
        task_name=answer.name,
        config=_yaml(content.config),
        training=curve_charts([Run("", Path(), columns=columns)], TRAINING),
        rebuilt=_rebuilt(content.reconstruction),
        few_steps=few_steps_images(content.few_steps) if content.evaluation else [],
        over_training=over_training(content.previews),
        across=stage,
        suites=_suites(content.evaluation, by_key),
        examples=_examples(content.evaluation),
        charts={
            "loss": curves.loss_chart(columns, content.phases),
            "bins": curves.bin_chart(columns, content.phases),
            "density": curves.density_chart(content.density, content.sampler_times),
            "times": curves.time_chart(content.evaluation, content.before, content.before_name),
            "quality": curves.quality_chart(columns),
            "nfe_quality": curves.nfe_quality_chart(content.nfe),
            "nfe_error": curves.nfe_error_chart(content.nfe),
            "few_steps": few_steps_charts(content.evaluation.metrics) if content.evaluation else [],
        },
        changes=changes,
        measured=_measured(content),
        total_seconds=sum(cost.seconds for cost in content.costs),
        image=partial(data_uri, side=side),
        significant=significant,
        title_of=title_of,
    )


@dataclass(frozen=True)
class OverTraining:
    """The same prompts and noise at several moments: steps across, prompts down."""

    steps: list[int]
    prompts: list[str]
    images: list[list[np.ndarray]]
    left_out: int


def over_training(previews: Sequence[Path]) -> OverTraining | None:
    """Reads the previews in order of their steps; first, last and evenly spaced ones between them.

    Files that are not there or carry no layout are passed over: a report must not fail on a lost preview.
    """
    grids: dict[int, Grid] = {}
    for path in previews:
        try:
            grid = read_grid(path)
        except (OSError, ValueError):
            continue
        grids[_step(path, grid)] = grid
    if not grids:
        return None
    last = grids[max(grids)]
    same = sorted(step for step, grid in grids.items() if grid.captions == last.captions)
    stride = max(1, -(-(len(same) - 1) // (_COLUMNS - 1)))
    picked = sorted({same[0], *same[::-1][::stride]})
    rows = min(_ROWS, len(last.images))
    prompts = list(last.captions[:rows]) or [""] * rows
    images = [[grids[step].images[row] for step in picked] for row in range(rows)]
    return OverTraining(picked, prompts, images, len(same) - len(picked))


def _step(path: Path, grid: Grid) -> int:
    if "step" in grid.info:
        return int(grid.info["step"])
    digits = re.findall(r"\d+", Path(path).stem)
    return int(digits[-1]) if digits else 0


@dataclass(frozen=True)
class Rebuilt:
    """Images and what an autoencoder makes of them, with the PSNR (dB) of these and of the images' mean colours."""

    images: list[np.ndarray]
    rebuilt: list[np.ndarray]
    psnr: float
    mean_psnr: float


def _rebuilt(strip: Path | None) -> Rebuilt | None:
    if strip is None or not strip.is_file():
        return None
    grid = read_grid(strip)
    half = len(grid.images) // 2
    return Rebuilt(list(grid.images[:half]), list(grid.images[half:]), **grid.info)


def _headline(content: ReportContent, changes: Mapping[str, Change]) -> list[dict[str, Any]]:
    evaluation = content.evaluation
    if evaluation is None:
        return []
    apart = (*_NO_HEADLINE, *(evaluation.by_clip() if content.caution else ()))
    keys = [key for key in TITLES if key in evaluation and key not in apart]
    return [{"title": title_of(key), "metric": evaluation[key], "change": changes.get(key)} for key in keys]


def _suites(evaluation: Evaluation | None, changes: Mapping[str, Change]) -> list[dict[str, Any]]:
    """For each judged suite its rows: overall first, then the tasks."""
    if evaluation is None:
        return []
    result = []
    for name in dict.fromkeys(key.rpartition("/")[0] for key in evaluation if key.endswith("/overall")):
        tasks = task_order([key.rpartition("/")[2] for key in evaluation if key.startswith(f"{name}/")])
        rows = [
            {"title": answer.name(task), "metric": evaluation[key], "change": changes.get(key)}
            for task in ["overall", *(t for t in tasks if t != "overall")]
            if (key := f"{name}/{task}") in evaluation
        ]
        result.append({"name": name, "title": _SUITES.get(name, name), "rows": rows})
    return result


def _examples(evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None or not evaluation.examples:
        return {"best": [], "worst": [], "copies": 0}
    best, worst = best_and_worst(evaluation.examples, evaluation.examples[0].suite)
    return {"best": best[:6], "worst": worst[:6], "copies": len(evaluation.examples[0].images)}


def _measured(content: ReportContent) -> list[tuple[str, list[tuple[str, Metric]]]]:
    """The metrics without a place of their own in the judge's section, those to be cautious with under a title."""
    evaluation = content.evaluation
    if evaluation is None:
        return []
    judged = {key.rpartition("/")[0] for key in evaluation if key.endswith("/overall")}
    apart = evaluation.by_clip() if content.caution else []
    first = [key for key in evaluation if key.rpartition("/")[0] not in judged and key not in apart]
    groups = (("", first), (content.caution.partition(";")[0], apart))
    return [(title, [(key, evaluation[key]) for key in keys]) for title, keys in groups if keys]


def _yaml(config: Config) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False) if config else ""
