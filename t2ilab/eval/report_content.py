"""What a report can show, as plain values that any stage can fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2ilab.eval.nfe import NFEPoint
from t2ilab.eval.result import Evaluation, Metric


@dataclass(frozen=True)
class DataFacts:
    """What became of the images that were found: found = used + sum of the drops.

    Attributes:
        drops: how many were left out, by reason.
        examples: a few names per reason.
        what: what they are called.
    """

    found: int
    used: int
    drops: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    what: str = "images"

    def __post_init__(self) -> None:
        if self.found != self.used + sum(self.drops.values()):
            raise ValueError(
                f"{self.found} images found, but {self.used} used and {dict(self.drops)} dropped"
            )


@dataclass(frozen=True)
class Cost:
    """One line of the cost table: what, how long, and anything worth saying (`2,500 steps, 410 images/s`)."""

    what: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Final:
    """An image of the model as it is, with its prompt and whether it shows that; None where nobody can tell."""

    prompt: str
    image: np.ndarray
    right: bool | None = None


@dataclass(frozen=True)
class NextStep:
    """Something to try now, with the command that does it."""

    text: str
    command: str


@dataclass(frozen=True)
class ExtraTable:
    """A table that a stage adds (a sweep, a set of rewards): plain text cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class ReportContent:
    """Everything that a report can show.

    Attributes:
        title: what was made, in a few words; `stage` and `subtitle` stand above and below it.
        notes: what a reader must know first (interrupted, numbers from test data, ...).
        unfinished: how far a run has come that is not at its end; empty at the end.
        final: the newest images, large at the top.
        marks: what else stands on the scale of prompt accuracy, such as an untrained network.
        config: the whole config, folded at the end.
        facts: stage, model, parameters, data, steps, parents, hardware ... in the order in which they are
            shown.
        caution: what to know before the numbers of the network that measures are believed; they are no headline then.
        reconstruction: the strip of training images above what the autoencoder makes of them.
        few_steps: the grid of images of a teacher and its student, see few_steps_charts.py.
        before, before_name: the parent's evaluation and what to call it.
        across: whether `before` was measured as `evaluation` was, at the start of the same run.
        metrics_csv: `step`, `train/loss`, `train/loss_t0.00-0.25` ...
        evaluations_csv: `step`, `judge/overall` ..., a row for each evaluation.
        density: (t, density) of the training times, in rising t, by the phase of training that draws so.
        sampler_times: where the sampler evaluates.
        phases: names of the phases of a curriculum by their first steps, that of the first left out.
        previews: grids written by grid.save_grid with info {"step": n}, all of the same prompts.
        reproduce: version, seed, digests ... beside the command.
    """

    title: str
    stage: str = ""
    subtitle: str = ""
    notes: Sequence[str] = ()
    unfinished: str = ""
    final: Sequence[Final] = ()
    marks: Mapping[str, Metric] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    caution: str = ""
    reconstruction: Path | None = None
    few_steps: Path | None = None
    before: Evaluation | None = None
    before_name: str = "before"
    across: bool = False
    metrics_csv: Path | None = None
    evaluations_csv: Path | None = None
    density: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    sampler_times: Sequence[float] = ()
    phases: Mapping[int, str] = field(default_factory=dict)
    previews: Sequence[Path] = ()
    nfe: Sequence[NFEPoint] = ()
    data: DataFacts | None = None
    costs: Sequence[Cost] = ()
    tables: Sequence[ExtraTable] = ()
    command: str = ""
    reproduce: Mapping[str, Any] = field(default_factory=dict)
    next_steps: Sequence[NextStep] = ()
