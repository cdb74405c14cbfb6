import csv
import json
import math
import time
from types import SimpleNamespace

import pytest
import torch

from t2ilab.callbacks import metrics as metrics_module
from t2ilab.callbacks import previews
from t2ilab.callbacks.checkpoint import AtomicCheckpointIO
from t2ilab.callbacks.metrics import Metrics, sums
from t2ilab.callbacks.rows import append_row, keep_rows
from t2ilab.measuring.measure import Measure
from t2ilab.runs.machine import LoggerOptions
from tests.tiny import command


class Loggers(list):
    def log_metrics(self, row, step):
        self.append((step, dict(row)))


class OneProcess:
    """A trainer as far as the callback looks at it."""

    world_size, is_global_zero, max_steps = 1, True, 1000

    def __init__(self):
        self.mirror = Loggers()
        self.loggers = [self.mirror]


class Player:
    """A stage as far as the callback looks at it: micro-batches of three rows."""

    batch_size, device, lr = 6, torch.device("cpu"), 0.25

    def __init__(self, accumulate=1):
        self.accumulate, self.micro, self.steps_done = accumulate, 0, 0
        self.grad_norm = torch.zeros(())

    def advance(self, loss, t=(0.1, 0.3, 1.0), norm=1.0, **terms):
        self.micro += 1
        self.step_finished = self.micro % self.accumulate == 0
        self.steps_done += self.step_finished
        self.grad_norm = torch.tensor(norm)
        values = {"loss": loss, **terms}
        self.record = (
            {k: torch.tensor(v) for k, v in values.items()},
            None if t is None else torch.tensor(t),
            list(values)[min(1, len(values) - 1)],
        )


def play(path, micro_batches, *, every=1, accumulate=1, trainer=None):
    metrics, player, trainer = Metrics(path, every=every), Player(accumulate), trainer or OneProcess()
    metrics.on_train_start(trainer, player)
    for values in micro_batches:
        player.advance(**values)
        metrics.on_train_batch_end(trainer, player)
    return metrics, player, trainer


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_the_mean_over_all_rows_of_all_micro_batches_since_the_last(tmp_path):
    path = tmp_path / "metrics.csv"
    losses = torch.randn(8, 3).tolist()
    play(path, [{"loss": loss, "norm": float(k)} for k, loss in enumerate(losses)], every=2, accumulate=2)
    found = rows(path)
    assert [row["step"] for row in found] == ["2", "4"]
    for k, row in enumerate(found):
        assert float(row["train/loss"]) == pytest.approx(
            torch.tensor(losses[4 * k : 4 * k + 4]).mean().item()
        )
        assert float(row["train/grad_norm"]) == pytest.approx(
            4 * k + 2
        )  # of the micro-batches that ended a step
        assert float(row["train/lr"]) == 0.25


def test_bins_hold_the_losses_of_their_quarter_of_the_noise_levels():
    loss, t = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([0.0, 0.2499, 0.25, 0.75, 1.0])
    found = {name: value.tolist() for name, value in sums({"loss": loss}, t).items()}
    assert found == {
        "loss": [31.0, 5.0],
        "loss_t0.00-0.25": [3.0, 2.0],
        "loss_t0.25-0.50": [4.0, 1.0],
        "loss_t0.50-0.75": [0.0, 0.0],
        "loss_t0.75-1.00": [24.0, 2.0],
    }


def test_an_empty_bin_is_an_empty_cell_and_terms_have_their_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    play(path, [{"loss": [1.0, 2.0, 9.0], "main": [1.0, 2.0, 6.0], "kl": [0.0, 0.0, 3.0]}])
    (row,) = rows(path)
    assert row["train/loss_t0.50-0.75"] == ""
    assert (row["train/loss_t0.75-1.00"], row["train/kl"], row["train/loss"]) == ("6", "1", "4")


def test_losses_without_times_have_no_bins(tmp_path):
    play(tmp_path / "metrics.csv", [{"loss": [1.0, 2.0, 6.0], "t": None}])
    assert not [name for name in rows(tmp_path / "metrics.csv")[0] if "_t" in name]


def test_the_last_step_has_a_row_even_if_it_is_not_due(tmp_path):
    trainer = OneProcess()
    trainer.max_steps = 5
    play(tmp_path / "metrics.csv", [{"loss": [1.0] * 3}] * 5, every=3, trainer=trainer)
    assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["3", "5"]


def test_a_run_that_stops_between_two_rows_goes_on_with_the_same_rows(tmp_path):
    whole, halves = tmp_path / "whole.csv", tmp_path / "halves.csv"
    steps = [{"loss": loss} for loss in torch.randn(10, 3).tolist()]
    play(whole, steps, every=5)
    first, player, trainer = play(halves, steps[:7], every=5)
    checkpoint = {}
    first.on_save_checkpoint(trainer, player, checkpoint)
    with halves.open("a") as file:
        file.write(halves.read_text().splitlines()[1].replace("5", "8", 1) + "\n")  # written, then killed
    second = Metrics(halves, every=5)
    second.on_load_checkpoint(trainer, player, checkpoint)
    second.on_train_start(trainer, player)
    for values in steps[7:]:
        player.advance(**values)
        second.on_train_batch_end(trainer, player)
    columns = ("step", "train/loss", "train/loss_t0.00-0.25", "train/grad_norm")
    assert [[row[name] for name in columns] for row in rows(halves)] == [
        [row[name] for name in columns] for row in rows(whole)
    ]
    assert second.seconds >= first.seconds


def test_the_time_of_training_is_that_of_its_steps_also_of_a_run_that_goes_on(tmp_path, monkeypatch):
    """Each preview, evaluation and checkpoint takes another 1,000 seconds."""
    late = [0.0]

    def slow(owner, name):
        original = getattr(owner, name)

        def action(*args, **options):
            late[0] += 1000
            return original(*args, **options)

        monkeypatch.setattr(owner, name, action)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late[0])
    monkeypatch.setattr(metrics_module, "time", clock)
    slow(previews, "save_grid")
    slow(Measure, "__call__")
    slow(AtomicCheckpointIO, "save_checkpoint")
    own = ("debug=tiny", "stage.evaluate_every=1", "checkpoint.every=1", "stage.preview_every=1")
    for steps in (2, 4):
        command(*own, f"trainer.max_steps={steps}", run_dir=tmp_path)
    last = rows(tmp_path / "metrics.csv")[-1]
    assert 0 < float(last["train/seconds"]) < 1000 and float(last["train/images_per_s"]) > 0.01
    manifest = json.loads((tmp_path / "export" / "t2ilab.json").read_text())
    assert manifest["seconds"] == pytest.approx(float(last["train/seconds"]), abs=1)
    assert "<td>previews, checkpoints</td>" in (tmp_path / "report.html").read_text()


def test_what_is_saved_can_be_read_with_weights_only(tmp_path):
    metrics, player, trainer = play(tmp_path / "metrics.csv", [{"loss": [1.0, 2.0, 3.0]}], every=5)
    checkpoint = {}
    metrics.on_save_checkpoint(trainer, player, checkpoint)
    torch.save(checkpoint, tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True)["metrics"]["steps"] == 1


def test_two_processes_share_their_sums_and_a_restored_one_counts_them_once(tmp_path):
    class FirstOfTwo(OneProcess):
        world_size = 2
        strategy = SimpleNamespace(reduce=lambda value, reduce_op: 2 * value)  # the other one saw the same

    metrics, player, trainer = play(
        tmp_path / "a.csv", [{"loss": [1.0, 2.0, 3.0]}], every=5, trainer=FirstOfTwo()
    )
    checkpoint = {}
    metrics.on_save_checkpoint(trainer, player, checkpoint)
    assert checkpoint["metrics"]["sums"]["loss"].tolist() == [12.0, 6.0]
    assert checkpoint["metrics"]["sums"]["grad_norm"].tolist() == [1.0, 1.0]  # a step is one step
    other = FirstOfTwo()
    other.is_global_zero = False
    metrics.on_load_checkpoint(other, player, checkpoint)
    metrics.on_save_checkpoint(other, player, checkpoint)
    assert checkpoint["metrics"]["sums"]["loss"].tolist() == [0.0, 0.0]


def test_loggers_mirror_the_rows(tmp_path):
    _, _, trainer = play(tmp_path / "metrics.csv", [{"loss": [1.0] * 3}, {"loss": [2.0] * 3}])
    assert [(step, row["train/loss"]) for step, row in trainer.mirror] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_change(tmp_path, bad):
    with pytest.raises(ValueError, match=r"at step 2; earlier checkpoints are kept.*lower optimizer.lr"):
        play(tmp_path / "metrics.csv", [{"loss": [1.0] * 3}, {"loss": [1.0, bad, 1.0]}])
    assert rows(tmp_path / "metrics.csv")[1]["train/loss"] == ""


HEADER = "step,train/loss\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (HEADER + "1,0.5\n2,0.25\n3,0.125\n", HEADER + "1,0.5\n2,0.25\n"),
        (HEADER + "1,0.5\n2,0.2", HEADER + "1,0.5\n"),  # half a row
        (HEADER + "1,0.5\n2", HEADER + "1,0.5\n"),
        (HEADER + "1,0.5\n2,0.25\n1", HEADER + "1,0.5\n2,0.25\n"),
        (HEADER, HEADER),
        ("step,train/lo", None),  # half a header
        ("", None),
    ],
)
def test_rows_past_the_checkpoint_and_half_written_lines_are_cut_off(tmp_path, before, after):
    path = tmp_path / "metrics.csv"
    path.write_text(before)
    keep_rows(path, 2)
    assert (path.read_text() if path.exists() else None) == after


def test_a_missing_file_stays_missing(tmp_path):
    keep_rows(tmp_path / "metrics.csv", 2)
    assert not list(tmp_path.iterdir())


def test_numbers_survive_the_file_bit_for_bit(tmp_path):
    path, value = tmp_path / "metrics.csv", 0.1 + 0.2
    append_row(path, {"step": 1.0, "train/loss": value})
    assert float(rows(path)[0]["train/loss"]) == value


def test_a_term_that_comes_in_later_gets_a_column_and_one_that_ends_leaves_blanks(tmp_path):
    path = tmp_path / "metrics.csv"
    for step, others in enumerate([{}, {"train/late": 0.5}, {"train/later": 0.25}, {}], 1):
        append_row(path, {"step": float(step), **others, "train/lr": 2.0})
    assert path.read_text() == ("step,train/lr,train/late,train/later\n1,2,,\n2,2,0.5,\n3,2,,0.25\n4,2,,\n")
    keep_rows(path, 3)
    assert [row["step"] for row in rows(path)] == ["1", "2", "3"]


def test_a_row_every_no_steps_is_refused_by_name():
    with pytest.raises(ValueError, match=r"logger.every"):
        LoggerOptions(every=0)


def test_a_term_that_has_ended_leaves_empty_cells_in_its_column(tmp_path):
    path = tmp_path / "metrics.csv"
    both, one = {"loss": [1.0] * 3, "main": [1.0] * 3, "repa": [2.0] * 3}, {"loss": [4.0] * 3}
    play(path, [both, one, one], every=1)
    assert [row["train/repa"] for row in rows(path)] == ["2", "", ""]
    assert [row["train/loss"] for row in rows(path)] == ["1", "4", "4"]
