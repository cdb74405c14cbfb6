"""benchmarks/personalisation.py: its rows fit the code, run behind their parents, and say what was measured."""

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
        import personalisation

        yield personalisation
    for name in ("personalisation", "tables", "settings", "curves"):
        sys.modules.pop(name, None)


def evaluation(**shares):
    metrics, outcomes = {}, {}
    for name, given in shares.items():
        key, values = name.replace("__", "/"), np.array(given, dtype=float)
        metrics[key] = Metric(float(values.mean()), 0.1, 0.9, len(values), "", "share", True)
        outcomes[key.removesuffix("/overall")] = Outcomes(values, ("task",) * len(values))
    return Evaluation(metrics, {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "same"}, outcomes)


def test_a_line_holds_the_share_of_what_the_base_can_do_and_paired_changes(bench):
    base = evaluation(described__overall=[1] * 8 + [0] * 2, teddy__overall=[1] * 10)
    after = evaluation(subject__overall=[1] * 6 + [0] * 4, teddy__overall=[1] * 9 + [0])
    cells = [cell.strip() for cell in bench.line("name", base, after, ["7"]).strip("|").split("|")]
    assert cells[:3] == ["name", "60.0 (10.0 .. 90.0)", "75.0"] and cells[-1] == "7"
    assert cells[3] == "-" and cells[7].startswith("-10.0 (")
    assert bench.of_bears(evaluation(described__overall=[0, 0]), after) == "-"


def test_a_row_is_made_behind_what_it_starts_from(bench, tmp_path, monkeypatch):
    args = SimpleNamespace(out=tmp_path, base=tmp_path / "B", threads=1, steps=5, measure=())
    runs, made = bench.Runs(args), []

    def launched(command, **_):
        own = command[3:]
        made.append(own)
        folder = next(word for word in own if word.startswith("run_dir=")).partition("=")[2]
        path = tmp_path / folder
        path.mkdir(parents=True)
        (path / "finished.json").write_text("{}")
        (path / "config.yaml").write_text(json.dumps({"command": command_line(own)}))

    monkeypatch.setattr(subprocess, "run", launched)
    last = runs.taught("pivotal, lora")
    assert [own[-1].rpartition("/")[2] for own in made] == ["textual_inversion", "pivotal-lora"]
    assert f"init_from={tmp_path / 'textual_inversion'}" in made[-1] and "adapter=lora" in made[-1]
    assert runs.taught("pivotal, lora") == last and len(made) == 2, "what is done is not made again"
    args.steps = 6
    with pytest.raises(ValueError, match="holds the run of another command"):
        runs.taught("pivotal, lora")


@pytest.mark.slow
def test_every_row_is_a_run_that_the_check_lets_through(bench):
    for row in (bench.ROWS | bench.FURTHER).values():
        composition.checked([*bench.QUIET, *bench.PLAN, "stage=personalize", "init_from=B", *row.own])
