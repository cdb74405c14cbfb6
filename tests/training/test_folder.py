"""A run folder belongs to one process at a time and to one set of options for life."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from t2ilab.export.manifest import write_text
from t2ilab.runs.folder import RunDir, differences
from t2ilab.training.loggers import own_id
from tests.tiny import ROOT, command

CONFIG = {
    "stage": {"name": "pretrain", "preview_every": 5, "evaluate_every": 0},
    "sampler": {"eta": 1.0},
    "guidance": {"scale": 2.0},
    "seed": 0,
    "run_dir": "a",
    "command": "python -m t2ilab",
    "prompts": None,
    "init_from": None,
    "model": {"_target_": "Net", "width": 32, "widths": [1, 2]},
    "optimizer": {"lr": 0.1},
    "trainer": {
        "max_steps": 10,
        "devices": 1,
        "accelerator": "auto",
        "strategy": "auto",
        "threads": 0,
        "clip": 1.0,
    },
    "data": {"workers": 0, "batch_size": 8},
    "logger": {"every": 5},
    "checkpoint": {"every": 5},
    "eval": {"seed": 0},
}


def changed(path, value):
    """CONFIG with one dotted key changed."""
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    node = config
    *parents, last = path.split(".")
    for name in parents:
        node = node[name]
    node[last] = value
    return config


def started(folder):
    """A run folder that has made a checkpoint."""
    run = RunDir(folder)
    run.remember(CONFIG)
    run.checkpoints.mkdir()
    (run.checkpoints / "step_00000005.ckpt").write_bytes(b"")
    return run


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_one_runs(tmp_path):
    first, second = RunDir(tmp_path), RunDir(tmp_path / ".." / tmp_path.name)
    with first.claimed():
        with pytest.raises(ValueError) as caught, second.claimed():
            raise AssertionError("two runs in one folder")
        message = str(caught.value)
        assert message.startswith(f"run_dir={tmp_path} is in use by another run (process {os.getpid()});")
        assert "choose another run_dir" in message
    with second.claimed():
        pass


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path):
    code = (
        "import sys, time; from t2ilab.runs.folder import RunDir\n"
        "with RunDir(sys.argv[1]).claimed():\n    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"in use by another run .process {holder.pid}."),
            RunDir(tmp_path).claimed(),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    for _ in range(100):  # the system frees the lock when it buries the process
        try:
            with RunDir(tmp_path).claimed():
                return
        except ValueError:
            time.sleep(0.05)
    raise AssertionError("the lock outlived its process")


def test_the_options_are_written_once_and_found_again(tmp_path):
    RunDir(tmp_path).remember(CONFIG)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


@pytest.mark.parametrize("text", ["a: 1", "stage: pretrain", "[1, 2]"])
def test_a_config_of_something_else_is_not_overwritten(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"run_dir=.* holds a config\.yaml of something else"):
        RunDir(tmp_path).remember(CONFIG)
    assert (tmp_path / "config.yaml").read_text() == text


def test_tuples_and_lists_are_the_same_options(tmp_path):
    started(tmp_path).remember(CONFIG | {"model": CONFIG["model"] | {"widths": (1, 2)}})


def test_the_same_options_continue_a_run(tmp_path):
    started(tmp_path).remember(CONFIG)


def test_other_options_are_refused_with_every_key_that_differs(tmp_path):
    run = started(tmp_path)
    now = changed("model.width", 64) | {"optimizer": {"lr": 0.2}, "seed": 3, "extra": {"new": 1}}
    del now["data"]["batch_size"]
    with pytest.raises(ValueError) as caught:
        run.remember(now)
    head, *lines, last = str(caught.value).splitlines()
    assert head == f"run_dir={tmp_path} holds a run with other options:"
    assert sorted(lines) == [
        "  - data.batch_size: was 8, now None",
        "  - extra.new: was None, now 1",
        "  - model.width: was 32, now 64",
        "  - optimizer.lr: was 0.1, now 0.2",
        "  - seed: was 0, now 3",
    ]
    assert "another run_dir" in last
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG, "the record must stay"


FREE = {
    "run_dir": "b",
    "command": "t2ilab",
    "prompts": ["a"],
    "trainer.max_steps": 20,
    "trainer.devices": 2,
    "trainer.accelerator": "cpu",
    "trainer.strategy": "ddp",
    "trainer.threads": 4,
    "data.workers": 2,
    "logger.every": 1,
    "checkpoint.every": 1,
    "eval.seed": 3,
    "sampler.eta": 0.0,
    "guidance.scale": 3.0,
    "stage.preview_every": 7,
    "stage.evaluate_every": 7,
}


@pytest.mark.parametrize("key", FREE)
def test_what_changes_no_loss_may_differ(tmp_path, key):
    run = started(tmp_path)
    run.remember(changed(key, FREE[key]))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == changed(key, FREE[key])


@pytest.mark.parametrize("key", ["seed", "init_from", "model.width", "trainer.clip", "data.batch_size"])
def test_what_changes_the_run_may_not_differ(key):
    assert len(differences(CONFIG, changed(key, 7))) == 1


def test_a_run_that_never_made_a_checkpoint_may_be_started_with_other_options(tmp_path):
    run = RunDir(tmp_path)
    run.remember(CONFIG)
    run.remember(changed("seed", 3))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 3


@pytest.mark.parametrize(("kind", "said"), [("WarmupStableDecay", True), ("Constant", False)])
def test_a_longer_run_says_that_a_falling_rate_is_planned_anew(tmp_path, capsys, kind, said):
    run = RunDir(tmp_path)
    run.remember(CONFIG | {"schedule": {"_target_": f"t2ilab.training.schedule.{kind}"}})
    run.checkpoints.mkdir()
    (run.checkpoints / "step_00000005.ckpt").write_bytes(b"")
    longer = changed("trainer.max_steps", 20) | {"schedule": {"_target_": f"t2ilab.training.schedule.{kind}"}}
    run.remember(longer)
    assert ("trainer.max_steps was 10 and is 20 now" in capsys.readouterr().out) == said


def test_a_folder_of_another_stage_is_refused_whatever_it_holds(tmp_path):
    RunDir(tmp_path).remember(CONFIG)
    with pytest.raises(ValueError, match="holds a run of stage=pretrain, which stage=sample would overwrite"):
        RunDir(tmp_path).remember(changed("stage.name", "sample"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space"):
            write_text(path, "new")
    assert path.read_text() == "old"


def test_paths_are_shown_as_one_would_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDir("here")
    assert run.path == tmp_path / "here"
    assert run.relative(run.report) == "here/report.html"
    (tmp_path / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/down")
    assert run.relative(run.report) == str(tmp_path / "here/report.html")


def test_a_second_start_of_a_finished_run_with_another_seed_is_refused(tmp_path):
    options = ["debug=tiny", "trainer.max_steps=1", "checkpoint.every=1", "stage.preview_every=9"]
    command(*options, run_dir=tmp_path)
    with pytest.raises(ValueError, match="holds a run with other options:\n  - seed: was 0, now 1\n"):
        command(*options, "seed=1", run_dir=tmp_path)
    with RunDir(tmp_path).claimed(), pytest.raises(ValueError, match="is in use by another run"):
        command(*options, run_dir=tmp_path)


def test_the_length_that_a_term_is_planned_for_follows_that_of_the_run():
    before = changed("trainer.max_steps", 10) | {"terms": {"repa": {"weight": {"total": 10, "value": 0.5}}}}
    longer = changed("trainer.max_steps", 20) | {"terms": {"repa": {"weight": {"total": 20, "value": 0.5}}}}
    assert differences(before, longer) == []
    longer["terms"]["repa"]["weight"]["value"] = 1.0
    assert differences(before, longer) == ["terms.repa.weight.value: was 0.5, now 1.0"]


def test_a_path_that_differs_is_shown_as_it_is_typed():
    before, now = {"data": {"path": "/a"}, "seed": 0}, {"data": {"path": "/my photos (2)"}, "seed": 1}
    assert differences(before, now) == [
        "data.path: was '/a', now data.path='/my photos (2)'",
        "seed: was 0, now 1",
    ]


READING = {
    "stage": {"name": "sample", "copies": 4, "batch_size": 64},
    "init_from": "/models/one",
    "prompts": ["a", "b"],
    "trainer": {"accelerator": "auto", "precision": None},
    "seed": 0,
}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"init_from": "/models/other"}, "init_from: was '/models/one', now init_from='/models/other'"),
        ({"seed": 1}, "seed: was 0, now 1"),
        ({"prompts": ["b", "a"]}, "prompts: was"),
        ({"prompts": ["a", "b", "c"]}, None),
        ({"stage": {"name": "sample", "copies": 9, "batch_size": 1}}, None),
    ],
)
def test_images_of_other_options_are_not_overwritten(tmp_path, change, refused):
    run = RunDir(tmp_path)
    run.remember(READING)
    run.remember(READING | {"seed": 5})  # nothing is drawn yet
    run.remember(READING)
    run.samples.mkdir()
    (run.samples / "000_0_a.png").write_bytes(b"")
    if refused is None:
        run.remember(READING | change)
    else:
        with pytest.raises(ValueError, match="holds a run with other options") as caught:
            run.remember(READING | change)
        assert f"\n  - {refused}" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["metrics.csv", "report.html", "samples/own.png", "averages/own.safetensors"]
)
def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("my own")
    with pytest.raises(ValueError, match=f"holds {name} and nothing that says"):
        RunDir(tmp_path).remember(CONFIG)
    assert (tmp_path / name).read_text() == "my own"


def test_a_run_that_lost_its_checkpoints_before_its_end_is_not_begun_anew(tmp_path):
    run = RunDir(tmp_path)
    run.remember(CONFIG)
    run.metrics.write_text("step,train/loss\n5,1.0\n")
    run.remember(CONFIG)  # the first checkpoint, of step 5, may have failed
    run.metrics.write_text("step,train/loss\n5,1.0\n6,1.0\n")
    with pytest.raises(
        ValueError, match=r"was trained .metrics\.csv with 6 steps., and its checkpoints are gone"
    ):
        run.remember(CONFIG)


def test_paths_that_moved_with_the_run_folder_are_the_same_options():
    before = CONFIG | {"run_dir": "/old/runs/one", "data": {"path": "/old/images"}}
    moved = CONFIG | {"run_dir": "/new/runs/one", "data": {"path": "/new/images"}}
    assert differences(before, moved) == []
    assert differences(before, moved | {"data": {"path": "/new/others"}}) == [
        "data.path: was '/old/images', now data.path='/new/others'"
    ]


def test_parts_of_a_step_are_fixed_where_a_term_compares_its_rows():
    before = changed("trainer.devices", 1) | {"terms": {"dispersive": {"_target_": "t2ilab.x.Dispersive"}}}
    now = changed("trainer.devices", 2) | {"terms": before["terms"]}
    assert differences(before, now) == ["trainer.devices: was 1, now 2"]


def test_the_name_of_a_run_in_wandb_lies_in_its_folder_and_moves_with_it(tmp_path):
    (tmp_path / "one").mkdir()
    name = own_id(tmp_path / "one")
    assert name and own_id(tmp_path / "one") == name
    (tmp_path / "one").rename(tmp_path / "other")
    assert own_id(tmp_path / "other") == name
    assert own_id(tmp_path / "one") != name
