import errno
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from t2ilab.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, newest_whole, step_of


class Saver:
    """A trainer that saves: all that the callback asks of one."""

    is_global_zero = True

    def __init__(self):
        self.io, self.content = AtomicCheckpointIO(), {"weights": torch.arange(1000.0)}

    def save_checkpoint(self, path):
        self.io.save_checkpoint(self.content, path)


def at(step, network=None):
    network = network or nn.Linear(2, 2)
    return SimpleNamespace(steps_done=step, step_finished=True, named_parameters=network.named_parameters)


def save(folder, *steps, keep=2):
    callback, trainer = Checkpoint(folder, every=1, keep=keep), Saver()
    for step in steps:
        callback.on_train_batch_end(trainer, at(step))
    return callback, trainer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_with_the_seal_of_its_content_and_nothing_else(tmp_path):
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_00000004.ckpt", "step_00000004.ckpt.sha256"]
    path, damaged = newest_whole(tmp_path)
    assert (step_of(path), damaged) == (4, [])
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(1000.0))


def test_the_newest_few_are_kept(tmp_path):
    save(tmp_path, 1, 2, 9, 10, keep=2)
    assert [name for name in names(tmp_path) if name.endswith("ckpt")] == [
        "step_00000009.ckpt",
        "step_00000010.ckpt",
    ]
    assert len(names(tmp_path)) == 4


def test_no_folder_and_an_empty_folder_hold_no_checkpoint(tmp_path):
    assert newest_whole(tmp_path) == (None, [])
    assert newest_whole(tmp_path / "none") == (None, [])


def test_truncated_changed_and_unsealed_files_are_passed_over_and_named(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=9)
    (tmp_path / "step_00000004.ckpt.sha256").unlink()
    changed = tmp_path / "step_00000003.ckpt"
    changed.write_bytes(changed.read_bytes()[:-100])
    flipped = tmp_path / "step_00000002.ckpt"
    flipped.write_bytes(flipped.read_bytes().replace(b"\x00", b"\x01", 1))
    path, damaged = newest_whole(tmp_path)
    assert step_of(path) == 1
    assert [(step_of(each.path), each.reason.split(" (")[0]) for each in damaged] == [
        (4, "was not finished when the run stopped"),
        (3, "is damaged"),
        (2, "is damaged"),
    ]


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(*_):  # how torch.save reports it
    raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0")


@pytest.mark.parametrize("failure", [no_space, full_disk])
def test_a_full_disk_loses_nothing_and_names_the_last_good_checkpoint(tmp_path, monkeypatch, failure):
    callback, trainer = save(tmp_path, 1, 2)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    monkeypatch.setattr(torch, "save", failure)
    with pytest.raises(
        OSError, match=r"could not save step_00000003.ckpt.*step_00000002.ckpt is whole"
    ) as caught:
        callback.on_train_batch_end(trainer, at(3))
    assert "Make room and give the same command again" in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_disk_that_is_full_at_the_seal_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    callback, trainer = save(tmp_path, 1, 2)
    monkeypatch.setattr("t2ilab.callbacks.checkpoint.write_text", no_space)
    with pytest.raises(OSError, match=r"step_00000002.ckpt is whole"):
        callback.on_train_batch_end(trainer, at(3))
    path, damaged = newest_whole(tmp_path)
    assert step_of(path) == 2 and [step_of(each.path) for each in damaged] == [3]


def test_a_full_disk_before_the_first_checkpoint_says_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OSError, match="no earlier checkpoint"):
        save(tmp_path, 1)


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    callback, trainer = save(tmp_path, 1, 2)
    before = names(tmp_path)
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].bias.data[1] = float("nan")
    with pytest.raises(ValueError, match=r"1.bias.*step_00000002.ckpt is whole.*optimizer.lr"):
        callback.on_train_batch_end(trainer, at(3, network))
    assert names(tmp_path) == before


def test_saving_follows_optimizer_steps_and_does_not_repeat_the_last(tmp_path):
    callback, trainer = Checkpoint(tmp_path, every=2, keep=9), Saver()
    for step in range(1, 6):
        unfinished = at(step - 1)
        unfinished.step_finished = False  # a micro-batch that only accumulates
        callback.on_train_batch_end(trainer, unfinished)
        callback.on_train_batch_end(trainer, at(step))
    assert [step_of(path) for path in sorted(tmp_path.glob("*.ckpt"))] == [2, 4]
    callback.on_train_end(trainer, at(5))
    assert callback.saved_step == 5
    trainer.save_checkpoint = no_space
    callback.on_train_end(trainer, at(5))


@pytest.mark.parametrize("options", [{"every": 0, "keep": 1}, {"every": 1, "keep": 0}])
def test_impossible_options_are_refused_by_name(tmp_path, options):
    with pytest.raises(ValueError, match=r"checkpoint.every and checkpoint.keep"):
        Checkpoint(tmp_path, **options)
