"""A run that was stopped in any way goes on as if it had not been: every row and every weight, bit for bit."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext

import pytest
import torch

from t2ilab.callbacks.checkpoint import newest_whole, step_of
from t2ilab.runs.folder import RunDir
from t2ilab.runs.outcome import Interrupted
from tests.runs import (
    PATIENCE,
    after_step,
    crash_here,
    finish,
    losses,
    run_here,
    said,
    same_run,
    same_weights,
    signal_at,
    start,
    steps,
    wait_for,
    weights,
)

pytestmark = pytest.mark.usefixtures("own_cache")
# 6 steps an epoch; a checkpoint within an epoch and between two rows; two rows of metrics.csv span one
SHORT = (
    "trainer.max_steps=13",
    "checkpoint.every=5",
    "logger.every=2",
    "stage.preview_every=3",
    "trainer.accumulate=2",
)
LONG = (
    "trainer.max_steps=160",  # far more than any kill, so that a busy machine does not end the run first
    *SHORT[1:3],
    "stage.preview_every=7",
    "trainer.accumulate=2",
    "data.workers=2",
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run_here(folder, *SHORT)
    return folder


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A run that died after step 12, with checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("crashed") / "run"
    crash_here(folder, 12, *SHORT)
    return folder


@pytest.fixture
def copy(crashed, tmp_path):
    return shutil.copytree(crashed, tmp_path / "run")


def test_the_reference_learns_and_writes_each_row_once(reference):
    assert steps(reference) == [2, 4, 6, 8, 10, 12, 13]
    found = [float(row["train/loss"]) for row in losses(reference).values()]
    assert found[-1] < found[0]
    raw, ema = "transformer/raw.safetensors", "transformer/diffusion_pytorch_model.safetensors"
    final = weights(reference)
    names = [name.split(":")[1] for name in final if name.startswith(raw)]
    assert names and any(not torch.equal(final[f"{raw}:{name}"], final[f"{ema}:{name}"]) for name in names)


def test_a_run_that_crashes_several_times_ends_as_if_it_had_not(reference, tmp_path):
    for step in (3, 7, 8, 13):  # before the first checkpoint; after it, twice; in the last step
        crash_here(tmp_path / "run", step, *SHORT)
    run_here(tmp_path / "run", *SHORT)
    same_run(tmp_path / "run", reference)


@pytest.mark.parametrize(
    "options",
    [
        ("optimizer=muon",),
        ("timestep=loss_aware", "weighting@loss.weighting=uncertainty"),
        ("terms=[repa,sra]", "terms.repa.weight.stop=0.5"),
        ("optimizer=schedule_free", "schedule=constant", "ema=none"),
        pytest.param(("optimizer=prodigy", "optimizer.d0=1e-3"), marks=pytest.mark.slow),
        pytest.param(("optimizer=adafactor",), marks=pytest.mark.slow),
        ("guidance=early", "ema.snapshot_at=0.5"),  # kept at step 6, which comes again
        pytest.param(("trainer.precision=bf16", "data.workers=2"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_other_parts_are_resumed_as_exactly(tmp_path, options):
    run_here(tmp_path / "whole", *SHORT, *options)
    crash_here(tmp_path / "run", 8, *SHORT, *options)
    run_here(tmp_path / "run", *SHORT, *options)
    same_run(tmp_path / "run", tmp_path / "whole")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unseal(path):
    path.with_name(path.name + ".sha256").unlink()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 4), (4, 1)])
def test_a_run_goes_on_with_another_accumulation_from_its_first_step(reference, tmp_path, before, after):
    """Eight rows in one go, in two or in four, up to rounding; the checkpoint is at step 5, no multiple of them."""
    run = tmp_path / "run"
    crash_here(run, 8, *SHORT[:-1], f"trainer.accumulate={before}")
    run_here(run, *SHORT[:-1], f"trainer.accumulate={after}")
    found, expected = losses(run), losses(reference)
    assert list(found) == list(expected)
    for step, row in expected.items():
        assert float(found[step]["train/loss"]) == pytest.approx(float(row["train/loss"]), rel=1e-5), step


def test_a_newest_checkpoint_that_is_not_whole_is_set_aside_and_the_one_before_is_used(
    copy, reference, capsys
):
    truncate(copy / "checkpoints" / "step_00000010.ckpt")
    run_here(copy, *SHORT)
    said = capsys.readouterr().out
    assert "warning: step_00000010.ckpt is not whole" in said
    assert "step_00000005.ckpt" in said.split("continuing from ")[1].splitlines()[0]
    same_run(copy, reference)
    assert (copy / "checkpoints" / "step_00000010.ckpt.damaged").is_file()


def test_checkpoints_that_were_copied_without_their_seals_are_used_and_kept(copy, reference, capsys):
    for path in sorted((copy / "checkpoints").glob("*.ckpt")):
        unseal(path)
    run_here(copy, *SHORT)
    said = capsys.readouterr().out
    assert "warning: step_00000010.ckpt has no sha256 file beside it; it was read to its end" in said
    assert "step_00000010.ckpt" in said.split("continuing from ")[1].splitlines()[0]
    same_run(copy, reference)
    assert len(list((copy / "checkpoints").glob("step_*.ckpt"))) == 3, "both old ones and the last"


def test_a_run_without_any_whole_checkpoint_is_refused_and_left_alone(copy):
    for path in sorted((copy / "checkpoints").glob("*.ckpt")):
        truncate(path)
    before = {
        path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "config.yaml"
    }
    with pytest.raises(ValueError, match="has no checkpoint that is whole"):
        run_here(copy, *SHORT)
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_without_its_checkpoints_is_never_begun_anew(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run_here(folder, *SHORT)  # finished, as it stands
    for change in ("trainer.max_steps=20", "eval.caption_prompts=5"):
        with pytest.raises(ValueError, match="its checkpoints are gone"):
            run_here(folder, *SHORT, change)
    for gone in ("report.html", "finished.json", "export", "evaluation.json", "config.yaml"):
        path = folder / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(
            ValueError, match=r"its checkpoints are gone|holds metrics.csv and nothing that says"
        ):
            run_here(folder, *SHORT)
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert all(before[path] == content for path, content in left.items() if path.name != ".lock")


@pytest.mark.parametrize("kept", ["finished.json", "export", "checkpoints"])
def test_other_options_are_refused_whatever_is_left_of_a_run(reference, tmp_path, kept):
    (tmp_path / "run").mkdir()
    if (reference / kept).is_dir():
        shutil.copytree(reference / kept, tmp_path / "run" / kept)
    else:
        shutil.copy(reference / kept, tmp_path / "run" / kept)
    with pytest.raises(ValueError, match=r"other options:\n  - optimizer\.lr: was 0\.002, now 0\.5"):
        run_here(tmp_path / "run", *SHORT, "optimizer.lr=0.5")
    with (
        pytest.raises(ValueError, match="its checkpoints are gone")
        if kept != "checkpoints"
        else nullcontext()
    ):
        run_here(tmp_path / "run", *SHORT)


def test_a_run_folder_that_was_moved_is_the_same_run(crashed, reference, tmp_path, monkeypatch):
    project, new = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(crashed, project / "run")
    project.rename(new)
    (new / "run").rename(new / "renamed")
    monkeypatch.chdir(tmp_path)
    run_here(new / "renamed", *SHORT)
    same_run(new / "renamed", reference)
    (new / "renamed").rename(tmp_path / "again")
    assert isinstance(run_here(tmp_path / "again", *SHORT), float)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    reference, tmp_path, monkeypatch
):
    save, count = torch.save, iter(range(9))

    def full(*arguments, **options):
        if next(count) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"step_00000010.ckpt.*No space left.*step_00000005.ckpt is whole"):
            run_here(tmp_path / "run", *SHORT)
    assert step_of(newest_whole(tmp_path / "run" / "checkpoints").path) == 5
    run_here(tmp_path / "run", *SHORT)
    same_run(tmp_path / "run", reference)


def test_a_run_whose_weights_become_nan_keeps_its_last_good_checkpoint(reference, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_step(patch, 7, lambda: _spoil(patch))
        with pytest.raises(ValueError, match=r"not finite at step 10.*step_00000005.ckpt is whole"):
            run_here(folder, *SHORT, "logger.every=100")  # no row is written that would show it
    assert step_of(newest_whole(folder / "checkpoints").path) == 5
    run_here(folder, *SHORT, "logger.every=100")
    same_weights(folder, reference)


def _spoil(patch):
    from t2ilab.objectives.base import Losses
    from t2ilab.objectives.flow_matching import FlowMatching

    healthy = FlowMatching.forward

    def sick(self, batch, rng, **turn):
        found = healthy(self, batch, rng, **turn)
        return Losses({name: value * float("nan") for name, value in found.terms.items()}, found.t)

    patch.setattr(FlowMatching, "forward", sick)


@pytest.mark.parametrize(("step", "number"), [(7, signal.SIGTERM), (13, signal.SIGINT)])
def test_a_signal_ends_a_run_after_the_step_and_nothing_of_it_is_lost(reference, tmp_path, step, number):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=f"stopped at step {step} of 13; everything is saved") as caught:
            run_here(folder, *SHORT)
    assert caught.value.status == 128 + number
    assert "give the same command again with run_dir=" in str(caught.value)
    assert step_of(newest_whole(folder / "checkpoints").path) == step
    assert not (folder / "export").exists()
    run_here(folder, *SHORT)
    same_run(folder, reference)


def test_a_run_that_was_stopped_while_it_was_measured_only_measures_again(
    reference, tmp_path, monkeypatch, capsys
):
    from t2ilab.measuring.measure import Measure

    def killed(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "curve", killed)
        with pytest.raises(Interrupted, match="before or after training"):
            run_here(tmp_path / "run", *SHORT)
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("t2ilab.training.learner.Learner.optimizer_step", lambda *_: pytest.fail("it trained"))
        run_here(tmp_path / "run", *SHORT)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    assert "this run is finished" not in capsys.readouterr().out
    same_run(tmp_path / "run", reference)


def test_a_finished_run_is_left_alone_unless_something_is_missing_or_asked_anew(reference, tmp_path, capsys):
    folder = shutil.copytree(reference, tmp_path / "run")
    value = json.loads((folder / "finished.json").read_text())["value"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    capsys.readouterr()

    def again(*options):
        assert run_here(folder, *SHORT, *options) == value
        return capsys.readouterr().out

    told = again()
    assert "this run is finished: 13 steps" in told and "report: " in told and "measuring" not in told
    written = [path for path, at in before.items() if path.stat().st_mtime_ns != at]
    assert {path.name for path in written} <= {"config.yaml", ".lock"}
    (folder / "report.html").unlink()
    assert "measuring" in again()
    assert "this run is finished" in again()
    assert "measuring" in again("eval.caption_prompts=5")
    same_run(folder, reference)


@pytest.mark.slow
def test_a_finished_run_can_be_trained_on_but_not_back(reference, tmp_path):
    folder = shutil.copytree(reference, tmp_path / "run")
    with pytest.raises(ValueError, match=r"13 steps already, more than trainer.max_steps=6"):
        run_here(folder, *SHORT, "trainer.max_steps=6")
    constant = (*SHORT, "schedule=constant", "schedule.warmup=2")
    run_here(tmp_path / "grown", *constant)
    run_here(tmp_path / "grown", *constant, "trainer.max_steps=16")
    run_here(tmp_path / "whole", *constant, "trainer.max_steps=16")
    assert steps(tmp_path / "grown") == [2, 4, 6, 8, 10, 12, 13, 14, 16]  # the end of the first had its row
    assert losses(tmp_path / "grown")[16] == losses(tmp_path / "whole")[16]
    same_weights(tmp_path / "grown", tmp_path / "whole")


def test_the_lock_of_a_folder_goes_with_its_process_whatever_its_children_do(tmp_path):
    ready, told = os.pipe()
    with RunDir(tmp_path).claimed():
        child = os.fork()
        if child == 0:  # like a data worker that has not noticed yet
            os.write(told, b"r")
            time.sleep(30)
            os._exit(0)
    assert os.read(ready, 1) == b"r"
    try:
        with RunDir(tmp_path).claimed():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_command_that_was_killed_goes_on(reference, tmp_path):
    folder = tmp_path / "run"
    assert signal_at(start(folder, *SHORT), folder, 6) == -signal.SIGKILL
    assert not (folder / "finished.json").exists()
    run_here(folder, *SHORT)
    same_run(folder, reference)


@pytest.fixture
def chance():
    """Where a kill lands within the steps that follow; told by pytest if the test fails."""
    seed = random.randrange(2**32)
    print(f"seed of the delays: {seed}")
    return random.Random(seed)


@pytest.mark.proof
def test_kill_9_at_random_moments_with_workers(tmp_path, chance):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    run_here(whole, *LONG)
    for step in (6, 20, 35):
        process = start(folder, *LONG)
        wait_for(lambda at=step: max([0, *steps_or_none(folder)]) >= at, process, folder)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert not (folder / "finished.json").exists()
    finish(folder, *LONG)
    assert said(folder).count("continuing from") == 3
    same_run(folder, whole)


def steps_or_none(folder):
    try:
        return steps(folder)
    except (OSError, ValueError, TypeError, KeyError):  # being written
        return []


@pytest.mark.proof
def test_muon_stopped_by_every_signal_in_turn(tmp_path):
    folder, whole, options = tmp_path / "run", tmp_path / "whole", (*LONG, "optimizer=muon")
    run_here(whole, *options)
    for step, number in ((8, signal.SIGTERM), (22, signal.SIGINT)):
        assert signal_at(start(folder, *options), folder, step, number) == 128 + number
    told = said(folder)
    assert told.count("this step is finished and saved; the same signal again stops at once") == 2
    assert told.count("of 160; everything is saved in") == 2 and "Traceback" not in told
    assert signal_at(start(folder, *options), folder, 36) == -signal.SIGKILL
    finish(folder, *options)
    same_run(folder, whole)


@pytest.mark.proof
def test_bf16_killed_in_training_and_while_it_is_measured(tmp_path):
    folder, whole, options = tmp_path / "run", tmp_path / "whole", (*LONG, "trainer.precision=bf16")
    run_here(whole, *options)
    assert signal_at(start(folder, *options), folder, 12) == -signal.SIGKILL
    process = start(folder, *options)
    wait_for(lambda: "measuring" in said(folder), process, folder)
    process.kill()
    process.wait(PATIENCE)
    finish(folder, *options)
    same_run(folder, whole)
    assert "this run is finished" in finish(folder, *options).splitlines()[-4:][0]


@pytest.mark.slow
def test_the_default_run_goes_on_bit_for_bit(tmp_path):
    """The parts of a plain `python -m t2ilab`: its network, optimizer, latents, texts and precision."""
    little = (
        "data.size=96",
        "data.val_size=16",
        "data.batch_size=16",
        "data.workers=2",
        "trainer.max_steps=9",
        "trainer.threads=1",
        "schedule.warmup=2",
        "checkpoint.every=4",
        "logger.every=3",
        "stage.preview_every=4",
        "eval=quick",
        "eval.prompts_per_task=1",
        "eval.caption_prompts=4",
        "eval.heldout_images=4",
    )
    run_here(tmp_path / "whole", *little, tiny=[])
    crash_here(tmp_path / "run", 6, *little, tiny=[])
    run_here(tmp_path / "run", *little, tiny=[])
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        run_here(tmp_path / "whole", *SHORT, "checkpoint.every=3")
        told = finish(disk / "run", *SHORT, "checkpoint.every=3", status=2)
        assert "error: could not save step_0000" in told and "is whole" in told and "Traceback" not in told
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        finish(disk / "run", *SHORT, "checkpoint.every=3")
        same_run(disk / "run", tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
