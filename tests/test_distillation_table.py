"""benchmarks/distillation.py: its rows fit the code, run in an order in which each has what it needs, and add up."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from t2ilab.cli import command_line
from t2ilab.config import composition
from t2ilab.eval.result import Evaluation, Metric, Outcomes


@pytest.fixture(scope="module")
def bench():
    folder = str(composition.conf_folder().parent / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import distillation

        yield distillation
    for name in ("distillation", "tables", "settings", "curves"):
        sys.modules.pop(name, None)


def evaluation(values, **metrics):
    values = np.array(values, dtype=float)
    score = Metric(float(values.mean()), 0.1, 0.9, len(values), "", "share", True)
    meta = {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "same"}
    outcomes = {"judge": Outcomes(values, ("task",) * len(values))}
    return Evaluation({"judge/overall": score} | metrics, meta, outcomes)


def test_the_share_of_the_teacher_is_that_of_the_paired_difference(bench):
    teacher = evaluation([1] * 30 + [0] * 10)
    assert bench.of_teacher(teacher, teacher).startswith("100.0 (")
    student = evaluation([1] * 24 + [0] * 16)  # 60 % for 75 %, wrong where the teacher is
    value, low, high = (
        float(word.strip("(),")) for word in bench.of_teacher(teacher, student).split() if word != ".."
    )
    assert value == 80.0 and 60 < low < 72 and 85 < high < 97
    assert bench.of_teacher(evaluation([0] * 4), evaluation([0] * 4)) == "-"


def test_cells_have_their_interval_and_unit(bench):
    found = evaluation([1, 0], fd_clip=Metric(12.3456, None, None, 2, ""))
    cells = bench.line("name", found, found, ["7"], 4).strip("|").split("|")
    assert cells[0].strip() == "name" and cells[1].strip() == "50.0 (10.0 .. 90.0)"
    assert cells[3].strip() == "-" and cells[4].strip() == "12.3" and cells[-1].strip() == "7"


def test_a_row_is_made_behind_its_teacher_and_the_pairs_of_it(bench, tmp_path, monkeypatch):
    args = SimpleNamespace(
        out=tmp_path, teacher=tmp_path / "T", threads=1, steps=5, rate=1e-3, prompts=7, copies=2, measure=()
    )
    runs, made = bench.Runs(args), []

    def launched(command, **_):
        own = command[3:]
        folder = next(word for word in own if word.startswith("run_dir=")).partition("=")[2]
        made.append(own)
        stage = next(word for word in own if word.startswith("stage="))
        path = tmp_path / folder / bench.DONE[stage]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        told = command_line(own)
        (tmp_path / folder / "config.yaml").write_text(json.dumps({"command": told}))

    monkeypatch.setattr(subprocess, "run", launched)
    last = runs.student("reflow twice, 1 step")
    folders = [next(word for word in own if word.startswith("run_dir=")).rpartition("/")[2] for own in made]
    assert folders == [
        "pairs_of_the_teacher",
        "reflow-1_step",
        "pairs_of_reflow-1_step",
        "reflow_twice-1_step",
    ]
    assert f"init_from={tmp_path / 'reflow-1_step'}" in made[-1]
    assert f"data.path={tmp_path / 'pairs_of_reflow-1_step'}" in made[-1] and "sampler=euler" in made[2]
    assert runs.student("reflow twice, 1 step") == last and len(made) == 4, "what is done is not made again"
    args.steps = 6
    with pytest.raises(ValueError, match="holds the run of another command"):
        runs.student("reflow twice, 1 step")


@pytest.mark.slow
def test_every_row_is_a_run_that_the_check_lets_through(bench, tmp_path):
    for row in (bench.ROWS | bench.FURTHER).values():
        pairs = [] if row.pairs is None else ["data=pairs", f"data.path={tmp_path}"]
        composition.checked([*bench.QUIET, *bench.PLAN, "stage=distill", "init_from=T", *row.own, *pairs])
        if row.pairs is not None:
            composition.checked(["stage=pairs", "reward=none", "init_from=T", *row.pairs])
    composition.checked([*bench.LITTLE, "stage=distill", "init_from=T"])
    composition.checked([*bench.PLAN, "stage=evaluate", "init_from=T", *bench.FINE])


def test_an_unknown_row_is_refused_before_any_run(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["distillation.py", "T", "--only", "typo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        bench.main()
    assert not list(tmp_path.iterdir())
