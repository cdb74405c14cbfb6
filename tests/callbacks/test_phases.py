from types import SimpleNamespace

import pytest

from t2ilab.callbacks.phases import PhaseLines

LINES = {0: "the first begins", 4: "the second begins"}


def told(capsys, lines, starts, ends=(), *, first=True, finished=True):
    callback = PhaseLines(lines)
    trainer = SimpleNamespace(is_global_zero=first, max_steps=9)
    callback.on_train_start(trainer, SimpleNamespace(steps_done=starts))
    for steps in ends:
        callback.on_train_batch_end(trainer, SimpleNamespace(steps_done=steps, step_finished=finished))
    return capsys.readouterr().out.split("\n")


@pytest.mark.parametrize(("starts", "line"), [(0, LINES[0]), (3, LINES[0]), (4, LINES[4]), (8, LINES[4])])
def test_a_start_says_in_which_phase_it_is(capsys, starts, line):
    assert told(capsys, LINES, starts) == [line, ""]


def test_a_change_is_said_once_when_the_step_before_it_is_finished(capsys):
    assert told(capsys, LINES, 0, range(1, 9)) == [LINES[0], "", LINES[4], ""]
    assert told(capsys, LINES, 0, [4], finished=False) == [LINES[0], ""]


def test_nothing_is_said_without_phases_by_another_process_or_after_the_end(capsys):
    assert told(capsys, {}, 0, [1, 2]) == [""]
    assert told(capsys, LINES, 0, [4], first=False) == [""]
    assert told(capsys, LINES, 9) == [""]
