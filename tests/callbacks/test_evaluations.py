"""Numbers during training are those of the end, and do not disturb the run."""

import csv
import json
from contextlib import nullcontext

from t2ilab.callbacks.evaluations import Evaluations
from t2ilab.runs.folder import RunDir
from tests.tiny import command, finished_run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_step_is_there_once_and_new_metrics_become_columns(tmp_path):
    evaluations = Evaluations(tmp_path / "evaluations.csv", dict, ema=None, every=0, paused=nullcontext)
    evaluations.add(5, {"a": 0.5})
    evaluations.add(10, {"a": 0.25, "b": float("nan")})
    evaluations.add(10, {"a": 0.75, "b": 2.0})
    assert rows(evaluations.path) == [
        {"step": "5", "a": "0.5", "b": ""},
        {"step": "10", "a": "0.75", "b": "2.0"},
    ]
    evaluations.add(7, {"a": 1.0})  # an earlier checkpoint was gone on from
    assert [row["step"] for row in rows(evaluations.path)] == ["5", "7"]


def test_measuring_on_the_way_changes_no_loss_and_agrees_with_the_end(tmp_path):
    """At step 2 of 4 with the same schedule; the losses are those of the run that measured only at its end."""
    plain = RunDir(finished_run())
    command("debug=tiny", "stage.evaluate_every=2", run_dir=tmp_path)
    measured = RunDir(tmp_path)
    assert [row["step"] for row in rows(measured.evaluations)] == ["2", "4"]
    losses = [[row["train/loss"] for row in rows(run.metrics)] for run in (plain, measured)]
    assert losses[0] == losses[1]
    last = rows(measured.evaluations)[-1]
    for run in (plain, measured):
        kept = json.loads(run.evaluation.read_text())["judge/overall"]["value"]
        assert float(last["judge/overall"]) == kept
    assert rows(plain.evaluations)[-1]["judge/overall"] == last["judge/overall"]
