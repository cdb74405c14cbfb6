"""Going through the steps of a chain: what is skipped, what goes on, what is kept under another name."""

import json

import pytest
import yaml

from t2ilab.chain import job
from t2ilab.chain.steps import Step
from t2ilab.runs.outcome import Interrupted


@pytest.fixture
def runs(monkeypatch):
    """Runs that do nothing but write an export whose content is that of `made`; `status` is how they end."""
    made = {"content": "1", "status": 0, "commands": []}

    def run_to_its_end(overrides):
        made["commands"].append(list(overrides))
        folder = made["folder"]
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"stage": {"name": "x"}, "lr": made["lr"]}))
        if made["status"] == 0:
            (folder / "export").mkdir(exist_ok=True)
            (folder / "export/t2ilab.json").write_text(json.dumps(made["content"]))
        return made["status"]

    monkeypatch.setattr(job, "run_to_its_end", run_to_its_end)
    monkeypatch.setattr(
        Step, "config", lambda step: {"stage": {"name": "x"}, "lr": made["lr"], "run_dir": str(step.folder)}
    )
    return made


@pytest.fixture
def go(tmp_path, runs):
    """Goes through one step, with the options and the parent's export that it has now."""
    made = runs
    made.update(folder=tmp_path / "step")
    parent = tmp_path / "parent"
    (parent / "export").mkdir(parents=True)

    def once(*, lr=1.0, parent_export="p", status=0):
        made.update(lr=lr, status=status)
        (parent / "export/t2ilab.json").write_text(parent_export)
        before = len(made["commands"])
        step = Step("step", made["folder"], {"init_from": parent}, ("stage=x",))
        job.go_through(step, job.Record(tmp_path / "chain.json"), "step 1 of 1, step")
        return len(made["commands"]) - before

    once.folder = made["folder"]
    once.others = lambda: sorted(path.name for path in tmp_path.glob("step.*"))
    return once


def test_a_finished_step_is_skipped_and_a_changed_one_runs_in_a_folder_of_its_own(go):
    assert go() == 1
    assert go() == 0
    assert go(lr=2.0) == 1
    assert go.others() == ["step.1"]
    assert go(lr=2.0) == 0


def test_a_step_whose_parent_has_changed_runs_anew_and_keeps_what_was(go):
    go()
    (go.folder / "mine.txt").write_text("kept")
    assert go(parent_export="another") == 1
    assert (go.folder.with_name("step.1") / "mine.txt").read_text() == "kept"


def test_a_stopped_step_goes_on_in_its_folder(go):
    with pytest.raises(Interrupted) as stopped:
        go(status=143)
    assert stopped.value.status == 143
    assert go() == 1
    assert go.others() == []


def test_a_failed_step_ends_the_chain_and_is_tried_again(go):
    with pytest.raises(ValueError, match="step step ended with status 2"):
        go(status=2)
    assert go() == 1
    assert go.others() == []


def test_a_finished_step_of_other_code_runs_anew(go, monkeypatch):
    go()
    monkeypatch.setattr("t2ilab.chain.steps.package_digest", lambda: "other")
    assert go() == 1
    assert go.others() == ["step.1"]


def test_an_export_that_is_not_the_one_that_was_made_is_made_again_and_kept(go):
    go()
    (go.folder / "export/t2ilab.json").write_text("damaged")
    assert go() == 1
    assert (go.folder.with_name("step.1") / "export/t2ilab.json").read_text() == "damaged"


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / "chain.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        job.Record(tmp_path / "chain.json")
