from types import SimpleNamespace

import pytest

from t2ilab.callbacks import progress as shown
from t2ilab.callbacks.progress import Progress, duration, ticker


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (185, "3:05"),
        (3599.7, "1:00:00"),
        (3723, "1:02:03"),
        (90000, "25:00:00"),
    ],
)
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


def test_the_last_step_is_always_shown_with_its_loss(capsys):
    trainer = SimpleNamespace(is_global_zero=True, max_steps=2)
    module = SimpleNamespace(steps_done=0, step_finished=True, batch_size=4)
    metrics = SimpleNamespace(last={"train/loss": 1.25}, seconds=3.0)  # of an earlier start
    progress = Progress(metrics)
    progress.on_train_start(trainer, module)
    module.steps_done, metrics.seconds = 2, 3.5
    progress.on_train_batch_end(trainer, module)
    line = capsys.readouterr().out
    assert "step 2/2" in line and "loss 1.2500" in line and "0:00 left" in line
    assert "   16 images/s" in line  # two steps of four images in half a second, whatever else was done
    assert line.startswith("[" + "#" * 24 + "]")


def told_while(monkeypatch, capsys, seconds, announced=0.5):
    """What is printed about the rate while steps take so many seconds, with 4 images each."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(shown.time, "perf_counter", lambda: clock.now)
    trainer = SimpleNamespace(is_global_zero=True, max_steps=10**6)
    module = SimpleNamespace(steps_done=0, step_finished=True, batch_size=4)
    metrics = SimpleNamespace(last={}, seconds=0.0)
    watched = Progress(metrics, lambda first, last: announced, lambda: "close other programs")
    watched.on_train_start(trainer, module)
    for took in seconds:
        clock.now += took
        metrics.seconds += took
        module.steps_done += 1
        watched.on_train_batch_end(trainer, module)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]


def test_a_rate_that_falls_to_half_is_said_once_with_what_helps(monkeypatch, capsys):
    line = "note: 3.2 images/s now, 8 were announced: close other programs"
    assert told_while(monkeypatch, capsys, [0.5] * 100 + [1.25] * 200) == [line]


def test_long_pauses_between_steps_and_somewhat_slower_steps_are_no_fall_of_the_rate(monkeypatch, capsys):
    assert told_while(monkeypatch, capsys, ([0.5] * 20 + [60.0]) * 10) == []
    assert told_while(monkeypatch, capsys, [0.9] * 300) == []


def ticked(monkeypatch, capsys, seconds, total, **options):
    """What is printed without a terminal while one thing after the other takes so many seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(shown.time, "perf_counter", lambda: clock.now)
    tick = ticker("encoding", **options)
    for done, took in enumerate(seconds, 1):
        clock.now += took
        tick(done, total)
    return capsys.readouterr().out.splitlines()


def test_what_is_made_quickly_is_a_line_at_both_ends(monkeypatch, capsys):
    assert ticked(monkeypatch, capsys, [0.1] * 8, 8) == ["encoding: 1/8", "encoding: 8/8"]


def test_what_needs_no_line_when_it_is_quick_has_none(monkeypatch, capsys):
    assert ticked(monkeypatch, capsys, [0.1] * 8, 8, ends=False) == []
    slow = ticked(monkeypatch, capsys, [6.0] * 3, 8, ends=False)
    assert slow == ["encoding: 2/8, about 0:36 left"]


def test_what_is_made_slowly_says_every_ten_seconds_how_long_it_takes_without_what_was_there(
    monkeypatch, capsys
):
    lines = ticked(monkeypatch, capsys, [0.0] + [6.0] * 4, 101)
    assert lines == [
        "encoding: 1/101",
        "encoding: 3/101, about 9:48 left",
        "encoding: 5/101, about 9:36 left",
    ]
