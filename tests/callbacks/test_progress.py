from types import SimpleNamespace

import pytest

from t2ilab.callbacks.progress import Progress, duration


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
    progress = Progress(SimpleNamespace(last={"train/loss": 1.25}))
    progress.on_train_start(trainer, module)
    module.steps_done = 2
    progress.on_train_batch_end(trainer, module)
    line = capsys.readouterr().out
    assert "step 2/2" in line and "loss 1.2500" in line and "0:00 left" in line
    assert line.startswith("[" + "#" * 24 + "]")
