import os
import signal
import time
from types import SimpleNamespace

import pytest

from t2ilab.callbacks.interrupt import ASKED_EVERY, NOTED, Interrupt
from t2ilab.signals import Stopped, handled, stop


def trainer():
    return SimpleNamespace(world_size=1, should_stop=False)


def module(finished=True):
    return SimpleNamespace(step_finished=finished, device="cpu")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_ends_after_the_step_in_which_the_signal_came(number):
    interrupt, one = Interrupt(), trainer()
    with interrupt.listening():
        interrupt.on_train_start(one, module())
        interrupt.on_train_batch_end(one, module())
        assert not one.should_stop
        os.kill(os.getpid(), number)
        interrupt.on_train_batch_end(one, module(finished=False))
        assert not one.should_stop  # an optimizer step is never cut in two
        interrupt.on_train_batch_end(one, module())
    assert one.should_stop and interrupt.signal_number == number


def test_the_handlers_of_before_are_back_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt().listening():
        assert signal.getsignal(signal.SIGINT) != before[0]
    with pytest.raises(KeyError), handled(stop):
        raise KeyError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_that_lightning_puts_in_front_is_replaced_when_training_starts():
    interrupt = Interrupt()
    with interrupt.listening():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        interrupt.on_train_start(trainer(), module())
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupt.signal_number == signal.SIGTERM


def test_a_signal_before_the_first_step_stops_before_it():
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped) as caught:
            interrupt.on_train_start(trainer(), module())
    assert caught.value.status == 143


def test_outside_of_training_a_signal_leaves_at_once():
    with pytest.raises(Stopped) as caught, handled(stop):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert caught.value.status == 130


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_at_once(first, second):
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:  # a step that takes far too long
        os.dup2(told, 2)
        with Interrupt().listening() as _:
            os.write(told, b"r")
            end = time.monotonic() + 60
            while time.monotonic() < end:
                time.sleep(0.01)
        os._exit(0)
    assert os.read(ready, 1) == b"r"
    os.kill(child, first)
    assert os.read(ready, len(NOTED)) == NOTED
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # the first one waits for the step
    os.kill(child, second)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == second


def test_one_process_of_several_stops_them_all_after_the_same_step():
    several = trainer()
    several.world_size = 2
    several.strategy = SimpleNamespace(
        reduce=lambda value, reduce_op: value.clamp(min=15)
    )  # the other one noted 15
    interrupt, stage = Interrupt(), module()
    for stage.steps_done in range(1, ASKED_EVERY + 1):
        assert not several.should_stop
        interrupt.on_train_batch_end(several, stage)
    assert several.should_stop and interrupt.signal_number == signal.SIGTERM
