"""The same run on one and on two processes, through the real entry point."""

import os
import signal
import time

import pytest

from tests.runs import crash_here, finish, last_step, losses, run_here, said, signal_at, start, steps, weights

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("own_cache")]
SHORT = ("trainer.max_steps=13", "checkpoint.every=5", "logger.every=2", "stage.preview_every=4")
TWO = ("trainer.devices=2", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_here(folder, *SHORT)
    return folder


def nearly_the_same_run(folder, reference):
    """Equal up to the rounding of sums that are taken in another order."""
    assert steps(folder) == steps(reference)
    for step, row in losses(reference).items():
        for name, cell in row.items():
            other = losses(folder)[step][name]
            assert (cell == other == "") or float(other) == pytest.approx(float(cell), rel=1e-5), (step, name)
    one, other = weights(folder), weights(reference)
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).abs().max() < 1e-3, (
            name
        )  # AdamW divides tiny gradients by themselves


def files(folder):
    """All files of a run but those whose names tell the time."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def nobody_is_left(process):
    """Every process of the group has ended, soon after the first."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_two_processes_learn_what_one_learns_and_write_everything_once(alone, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, *SHORT, *TWO)
    assert process.wait(600) == 0, said(folder)
    assert nobody_is_left(process)
    nearly_the_same_run(folder, alone)
    told = said(folder)
    for once in ("measuring ...", "training pretrain on", "run folder:", "report:"):
        assert told.count(once) == 1, once
    assert "Traceback" not in told and "warning" not in told.lower(), told
    assert {name for name in files(folder) if not name.startswith(".hydra")} == set(files(alone))
    finish(folder, *SHORT, *TWO)
    assert "this run is finished" in said(folder)


def test_two_processes_that_torchrun_started_are_the_same_run(alone, tmp_path):
    folder, launcher = tmp_path / "run", ("-m", "torch.distributed.run", "--nproc-per-node=2")
    assert start(folder, *SHORT, *TWO, launcher=launcher).wait(600) == 0, said(folder)
    nearly_the_same_run(folder, alone)
    assert said(folder).count("measuring ...") == said(folder).count("training pretrain on") == 1
    assert {name for name in files(folder) if not name.startswith(".hydra")} == set(files(alone))


def test_accumulation_on_two_processes_and_a_run_that_began_on_one(alone, tmp_path):
    """Four micro-batches of two rows instead of one of eight; from step 5 on, a row of metrics.csv cut in two."""
    folder, options = tmp_path / "run", (*SHORT, "trainer.accumulate=2")
    crash_here(folder, 8, *options)
    finish(folder, *options, *TWO)
    assert "continuing from" in said(folder)
    nearly_the_same_run(folder, alone)


def test_two_processes_change_phases_together(tmp_path):
    options = (*SHORT, "data.resolution=64", "curriculum=resolution", "trainer.accumulate=2")
    run_here(tmp_path / "alone", *options)
    finish(tmp_path / "run", *options, *TWO)
    assert said(tmp_path / "run").count("phase 2 of 2") == 1
    nearly_the_same_run(tmp_path / "run", tmp_path / "alone")


def test_a_signal_to_the_first_process_stops_both_and_one_goes_on_alone(tmp_path):
    longer = ("trainer.max_steps=120", *SHORT[1:3], "stage.preview_every=100")
    folder = tmp_path / "run"
    process = start(folder, *longer, *TWO)
    assert signal_at(process, folder, 7, signal.SIGTERM) == 143, said(folder)
    assert nobody_is_left(process)
    told = said(folder)
    assert told.count("of 120; everything is saved") == 1 and "Traceback" not in told, told
    assert last_step(folder) < 120
    run_here(tmp_path / "alone", *longer)
    run_here(folder, *longer)
    nearly_the_same_run(folder, tmp_path / "alone")


def test_ctrl_c_at_the_terminal_reaches_both_processes_and_stops_them_once(tmp_path):
    longer = ("trainer.max_steps=200", *SHORT[1:3], "stage.preview_every=100")
    folder = tmp_path / "run"
    process = start(folder, *longer, *TWO)
    while last_step(folder) < 5:
        assert process.poll() is None, said(folder)
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(600) == 130, said(folder)
    assert nobody_is_left(process)
    assert said(folder).count("everything is saved") == 1 and "Traceback" not in said(folder), said(folder)


def test_times_that_follow_the_loss_follow_that_of_all_processes(tmp_path):
    """What one process sees of half of the rows must not replace what the other saw, nor be lost in a checkpoint."""
    options = (*SHORT, "timestep=loss_aware", "timestep.bins=2", "weighting@loss.weighting=uncertainty")
    alone, folder = tmp_path / "alone", tmp_path / "run"
    run_here(alone, *options)
    crash_here(folder, 7, *options)
    told = finish(folder, *options, *TWO)
    assert "Traceback" not in told, told
    nearly_the_same_run(folder, alone)


def test_a_game_on_two_processes_is_the_game_on_one(tmp_path):
    """Also the weights of the balanced terms are those of the whole batch."""
    game = (
        "loss=adversarial_reconstruction",
        "loss.start_step=3",
        "loss.discriminator.network.width=8",
        "loss.learned_variance=true",
        "latent_alignment@loss.latent_alignment=va_vae",
        "optimizer.lr=1e-3",
        "trainer.max_steps=7",
    )
    alone, folder = tmp_path / "alone", tmp_path / "run"
    run_here(alone, *game, tiny=["debug=tiny_autoencoder"])
    told = finish(folder, *game, *TWO, "trainer.accumulate=2", tiny=["debug=tiny_autoencoder"])
    assert "Traceback" not in told and "warning" not in told.lower(), told
    assert steps(folder) == steps(alone) == [1, 2, 3, 4, 5, 6, 7]
    for step, row in losses(alone).items():
        for name, cell in row.items():
            other = losses(folder)[step][name]
            assert (cell == other == "") or float(other) == pytest.approx(float(cell), rel=1e-3), (step, name)
