import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from t2ilab.config.composition import compose
from t2ilab.eval.grid import read_grid
from t2ilab.runs.outcome import Interrupted
from t2ilab.training.job import Job
from tests.runs import TINY, crash_here, losses, run_here, same_weights
from tests.tiny import command

pytestmark = pytest.mark.usefixtures("own_cache")
SHORT = ("trainer.max_steps=7", "checkpoint.every=4", "stage.preview_every=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "run"
    run_here(folder, *SHORT)
    return folder


def test_a_run_leaves_the_files_that_it_promises(finished):
    for name in (
        "config.yaml",
        "metrics.csv",
        "evaluation.json",
        "report.html",
        "export/t2ilab.json",
        "finished.json",
    ):
        assert (finished / name).stat().st_size > 0, name
    assert sorted(path.name for path in (finished / "checkpoints").glob("*.ckpt")) == [
        "step_00000004.ckpt",
        "step_00000007.ckpt",
    ]
    assert json.loads((finished / "export/t2ilab.json").read_text())["steps"] == 7
    assert not list(finished.rglob("*tmp*"))


def test_previews_are_drawn_before_training_when_due_and_at_the_end(finished):
    names = sorted(path.name for path in (finished / "samples").glob("step_*.png"))
    assert names == [f"step_{step:08d}.png" for step in (0, 3, 6, 7)]
    first, last = (Image.open(finished / "samples" / names[k]) for k in (0, -1))
    assert first.size == last.size and first.tobytes() != last.tobytes()


def test_the_rate_of_a_row_is_the_rate_of_its_step(finished):
    rates = [float(row["train/lr"]) for row in losses(finished).values()]
    warm_up, line = (1 / 3, 2 / 3, 1), (1, 6 / 7, 5 / 7)  # schedule.warmup=2, and to zero in 7 steps
    assert rates[:3] == pytest.approx([2e-3 * a * b for a, b in zip(warm_up, line, strict=True)])
    assert 0 < rates[-1] < rates[-2] < rates[2]  # the decay ends after the last step, not before


def test_what_is_only_watched_or_fetched_otherwise_changes_no_bit(finished, tmp_path):
    """Previews, checkpoints, rows of metrics and data workers take no part in the randomness."""
    other = (
        "stage.preview_every=100",
        "checkpoint.every=100",
        "logger.every=7",
        "data.workers=1",
        "prompts=[a red circle]",
    )
    run_here(tmp_path / "run", "trainer.max_steps=7", *other)
    same_weights(tmp_path / "run", finished)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulation_changes_losses_by_rounding_only(finished, tmp_path, accumulate):
    run_here(tmp_path / "run", *SHORT, f"trainer.accumulate={accumulate}")
    one, other = losses(finished), losses(tmp_path / "run")
    for step, row in one.items():
        for name in ("train/loss", "train/grad_norm"):
            assert float(other[step][name]) == pytest.approx(float(row[name]), rel=1e-5), (step, name)


def test_another_seed_is_another_run_and_the_same_seed_the_same(finished, tmp_path):
    run_here(tmp_path / "same", *SHORT)
    assert losses(tmp_path / "same") == losses(finished)
    run_here(tmp_path / "other", *SHORT, "seed=1")
    assert losses(tmp_path / "other")[1]["train/loss"] != losses(finished)[1]["train/loss"]


def test_other_options_do_not_continue_a_run(finished):
    with pytest.raises(ValueError, match=r"optimizer.lr: was 0.002, now 0.001"):
        run_here(finished, *SHORT, "optimizer.lr=1e-3")


def test_ctrl_c_outside_of_training_says_how_to_go_on(tmp_path):
    config = compose([*TINY, f"run_dir={tmp_path}"]) | {"command": "test"}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="give the same command again") as caught, Job.open(config):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert caught.value.status == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_tensorboard_mirrors_the_rows(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    run_here(folder, "logger=tensorboard", "logger.every=2")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/grad_norm", "train/lr"):
        mirrored = [(event.step, event.value) for event in events.Scalars(name)]
        rows = [(step, float(row[name])) for step, row in losses(folder).items()]
        assert [step for step, _ in mirrored] == [step for step, _ in rows] == [2, 4]
        assert [value for _, value in mirrored] == pytest.approx([value for _, value in rows])


@pytest.mark.slow
def test_wandb_mirrors_the_rows_offline(tmp_path, monkeypatch):
    import wandb

    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    folder = tmp_path / "run"
    run_here(folder, "logger=wandb", "logger.every=2")
    wandb.finish()
    first = min((folder / "samples").glob("step_*.png"))
    (offline,) = folder.glob("wandb/offline-run-*")
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    records = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    mirrored = [item for item in items if "train/loss" in item]
    (measured,) = [item for item in items if "eval/loss/heldout" in item]
    assert measured["trainer/global_step"] == 4
    previews = [item for item in items if "preview.captions" in item]
    assert [item["trainer/global_step"] for item in previews] == [0, 4]
    for item in previews:
        assert item["preview.captions"] == list(read_grid(first).captions)
        assert item["preview.count"] == len(item["preview.captions"])
    artifacts = {record["artifact"]["type"] for record in records if record["type"] == "artifact"}
    assert artifacts == {"report", "evaluation", "t2ilab"}
    rows = losses(folder)
    assert [item["trainer/global_step"] for item in mirrored] == list(rows) == [2, 4]
    for item, row in zip(mirrored, rows.values(), strict=True):
        cells = {name: float(cell) for name, cell in row.items() if cell and name != "step"}
        assert {name: item[name] for name in cells} == cells


def test_a_finished_run_that_is_made_longer_has_the_rate_of_the_new_length_from_its_first_step(tmp_path):
    for steps in (4, 8):
        command("debug=tiny", "terms=[repa]", f"trainer.max_steps={steps}", run_dir=tmp_path)
    rates = [float(row["train/lr"]) for row in losses(tmp_path).values()]
    whole = [2e-3 * (8 - step) / 8 for step in range(8)]
    assert rates[4:] == pytest.approx(whole[4:], rel=0.2) and rates[4] > rates[3]


def test_a_run_is_exported_before_its_end_and_goes_on_as_if_it_had_not_been(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_here(whole, "trainer.max_steps=8", "schedule=constant")
    crash_here(run, 5, "trainer.max_steps=8", "schedule=constant")
    run_here(run, "trainer.max_steps=4", "schedule=constant")
    assert json.loads((run / "export/t2ilab.json").read_text())["steps"] == 4
    run_here(run, "trainer.max_steps=8", "schedule=constant")
    same_weights(run, whole)
