import json

import pytest
import torch
from torch import nn

from t2ilab.averages.ema import EMA
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Losses, Objective
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import TrainerOptions
from t2ilab.training import pace as pacing
from t2ilab.training.learner import Learner
from t2ilab.training.pace import Pace, fastest, paces, what_helps
from t2ilab.training.threads import kept_threads, thread_line, threads_to_try
from tests.runs import crash_here, run_here, same_weights


class Squares(Objective):
    def forward(self, batch, rng, player="student", kept=NOTHING):
        return Losses({"loss": self.student(batch.x0).square().mean(1)})


class Plain(Learner):
    def to_batch(self, rows, rng):
        return Batch(rows["x"])


class NoisySGD(torch.optim.SGD):
    """Draws from the global stream, as an optimizer of somebody's own may."""

    def step(self, closure=None):
        torch.rand(1)
        return super().step(closure)


def stage():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    options = {"seed": 0, "batch_size": 4, "schedule": None, "clip": 1.0}
    return Plain(
        network, Squares(), optimizer=lambda named: NoisySGD([p for _, p in named], lr=1.0), **options
    )


def batch(width=3, step=0):
    return {
        "x": torch.randn(4, width, generator=torch.Generator()),
        "rows": torch.arange(4),
        "step": step,
    }


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def options(**more):
    return TrainerOptions(**{"max_steps": 10, "accelerator": "cpu", "precision": "fp32"} | more)


def test_the_trial_leaves_no_trace_in_weights_averages_threads_or_random_numbers(two_threads):
    one, ema = stage(), EMA(decay=0.9)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    generator = torch.get_rng_state()
    found = paces(one, {0: batch()}, options(), ema, threads=[1, 2])
    assert [pace.threads for pace in found] == [1, 2] and torch.get_num_threads() == 2
    assert all(0 < pace.mean < 60 for pace in found)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert all(p.grad is None for p in one.parameters()) and not ema.shadow and ema.updates == 0
    assert one.steps_done == 0 and torch.equal(torch.get_rng_state(), generator)


def test_a_step_is_its_micro_batches_with_their_fetching_and_one_update(monkeypatch):
    tried = []

    def trial(stage, batch, options):
        tried.append((batch["x"].shape[1], batch["step"]))
        return float(batch["x"].shape[1])

    monkeypatch.setattr(pacing, "_step_seconds", trial)
    monkeypatch.setattr(pacing, "_update_seconds", lambda *_: 0.25)
    batches = {step: batch(edge, step) for step, edge in enumerate((2, 2, 2, 6))}
    (pace,) = paces(stage(), batches, options(accumulate=2), EMA(decay=0.9), threads=[1], fetching=0.5)
    assert pace.seconds == {0: 5.25, 1: 5.25, 2: 5.25, 3: 13.25}
    assert pace.mean == pytest.approx((3 * 5.25 + 13.25) / 4)
    assert sorted(tried) == [(2, 2), (6, 3)], "the last of each shape"


def test_the_slowest_step_is_that_of_the_shapes_around():
    pace = Pace({0: 1.0, 10: 1.0, 20: 4.0, 30: 4.0}, threads=1)
    assert [pace.slowest(*steps) for steps in ((0, 5), (3, 10), (5, 12), (25, 99))] == [1.0, 1.0, 4.0, 4.0]


def test_fewer_threads_are_taken_if_they_are_clearly_faster():
    one, all_ = (lambda seconds, n=n: Pace({0: seconds}, n) for n in (1, 2))
    assert fastest([one(1.0), all_(8.0)]).threads == 1
    assert fastest([one(1.9), all_(1.0)]).threads == 2
    assert fastest([one(0.97), all_(1.0)]).threads == 2, "a difference that no trial can tell"
    line = thread_line([one(0.5), all_(16.0)], batch=64)
    assert (
        line
        == "threads tried: 1: 128 images/s, 2: 4 images/s; taken: 1 (trainer.threads=... fixes the number)"
    )


def test_threads_are_tried_by_a_single_process_on_a_cpu_that_was_given_no_number(two_threads):
    assert threads_to_try(options()) == [1, 2]
    assert threads_to_try(options(threads=2)) == [2]
    assert threads_to_try(options(devices=2)) == [2]
    torch.set_num_threads(1)
    assert threads_to_try(options()) == [1]


def test_the_advice_for_slow_steps_names_options(two_threads, monkeypatch):
    assert "trainer.threads=1" in what_helps(options())
    monkeypatch.setattr(pacing, "device_of", lambda options: torch.device("cuda"))
    assert "data.workers" in what_helps(options())


@pytest.fixture
def busy(monkeypatch, two_threads):
    """A machine on which two threads are a hundred times slower than one."""

    def trial(*_):
        tried.append(torch.get_num_threads())
        return 100.0 if torch.get_num_threads() > 1 else 1.0

    tried = []
    monkeypatch.setattr(pacing, "_step_seconds", trial)
    return tried


@pytest.mark.usefixtures("own_cache")
def test_a_run_keeps_the_threads_that_its_first_start_has_found_faster(tmp_path, busy, monkeypatch, capsys):
    auto = ("trainer.threads=0", "trainer.accelerator=cpu")
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_here(whole, "trainer.threads=1")
    torch.set_num_threads(2)
    busy.clear()
    crash_here(run, 3, *auto)
    assert set(busy) == {1, 2} and torch.get_num_threads() == 1
    assert "taken: 1" in capsys.readouterr().out
    note = json.loads((run / "machine.json").read_text())
    assert note["threads"] == 1 and note["images_per_s"].keys() == {"1", "2"}
    torch.set_num_threads(2)  # a new process
    busy.clear()
    monkeypatch.setattr(pacing, "_step_seconds", lambda *_: 1.0 if torch.get_num_threads() > 1 else 100.0)
    run_here(run, *auto)
    told = capsys.readouterr().out
    assert "threads tried" not in told and "on 1 thread," in told and torch.get_num_threads() == 1
    same_weights(run, whole)
    torch.set_num_threads(2)
    run_here(run, *auto)
    assert "this run is finished" in capsys.readouterr().out
    assert json.loads((run / "machine.json").read_text())["threads"] == 1


def test_a_broken_note_about_threads_says_what_to_do(tmp_path):
    run = RunDir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step_00000002.ckpt").touch()
    assert kept_threads(run, options()) is None
    (tmp_path / "machine.json").write_text('{"threads": "many"}')
    with pytest.raises(ValueError, match=r"machine.json is broken.*trainer.threads"):
        kept_threads(run, options())
