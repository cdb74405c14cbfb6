import errno
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from t2ilab.callbacks.checkpoint import (
    AtomicCheckpointIO,
    Checkpoint,
    newest_whole,
    options_in,
    set_aside,
    step_of,
)


class Saver:
    """A trainer that saves: all that the callback asks of one."""

    is_global_zero = True

    def __init__(self):
        self.io = AtomicCheckpointIO()
        self.content = {"state_dict": {"weights": torch.arange(1000.0)}, "optimizer_states": [], "loops": {}}

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
    found = newest_whole(tmp_path)
    assert (step_of(found.path), found.note, found.damaged) == (4, "", [])
    weights = torch.load(found.path, weights_only=True)["state_dict"]["weights"]
    assert torch.equal(weights, torch.arange(1000.0))


def test_the_newest_few_are_kept(tmp_path):
    save(tmp_path, 1, 2, 9, 10, keep=2)
    assert [name for name in names(tmp_path) if name.endswith("ckpt")] == [
        "step_00000009.ckpt",
        "step_00000010.ckpt",
    ]
    assert len(names(tmp_path)) == 4


def test_no_folder_and_an_empty_folder_hold_no_checkpoint(tmp_path):
    (tmp_path / "step_00000003 (copy).ckpt").write_bytes(b"somebody's own")
    for folder in (tmp_path, tmp_path / "none"):
        found = newest_whole(folder)
        assert (found.path, found.damaged) == (None, [])


def test_truncated_and_changed_files_are_passed_over_and_named(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, keep=9)
    changed = tmp_path / "step_00000003.ckpt"
    changed.write_bytes(changed.read_bytes()[:-100])
    flipped = tmp_path / "step_00000002.ckpt"
    content = flipped.read_bytes()
    flipped.write_bytes(content.replace(torch.tensor([7.0]).numpy().tobytes(), b"\x01\x02\x03\x04", 1))
    (tmp_path / "step_00000004.ckpt").write_bytes(b"")
    torch.save({"state_dict": {}}, tmp_path / "step_00000005.ckpt")
    found = newest_whole(tmp_path)
    assert step_of(found.path) == 1
    told = {step_of(each.path): each.reason for each in found.damaged}
    assert list(told) == [5, 4, 3, 2] and all(reason.startswith("is not whole (") for reason in told.values())
    assert "it holds no optimizer_states" in told[5] and "CRC-32" in told[2]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda seal: seal.unlink(),
        lambda seal: seal.write_bytes(b""),
        lambda seal: seal.write_text("0" * 64),
        lambda seal: seal.write_bytes(b"\xff\xfe"),
    ],
)
def test_a_whole_checkpoint_without_its_seal_is_read_to_its_end_and_used(tmp_path, spoil):
    save(tmp_path, 1, 2)
    spoil(tmp_path / "step_00000002.ckpt.sha256")
    found = newest_whole(tmp_path)
    assert (step_of(found.path), found.damaged) == (2, [])
    assert found.note.startswith("step_00000002.ckpt has ") and found.note.endswith("is whole and is used")


def test_what_has_no_seal_is_not_removed_to_make_room_for_newer_ones(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "step_00000001.ckpt.sha256").unlink()
    (tmp_path / "step_00000002.ckpt.sha256").write_text("0" * 64)
    (tmp_path / "step_00000001 (copy).ckpt").write_bytes(b"somebody's own")
    save(tmp_path, 3, 4, 5, 6)
    kept = [name for name in names(tmp_path) if name.endswith("ckpt")]
    assert kept == ["step_00000001 (copy).ckpt", *(f"step_0000000{step}.ckpt" for step in (1, 2, 5, 6))]


def test_what_is_set_aside_keeps_its_content_under_a_name_that_nothing_overwrites(tmp_path):
    for content in (b"first", b"second"):
        path = tmp_path / "step_00000003.ckpt"
        path.write_bytes(content)
        path.with_name("step_00000003.ckpt.sha256").write_bytes(content)
        assert set_aside(path).read_bytes() == content
    assert names(tmp_path) == [
        "step_00000003.ckpt.damaged",
        "step_00000003.ckpt.damaged.sha256",
        "step_00000003.ckpt.damaged1",
        "step_00000003.ckpt.damaged1.sha256",
    ]
    assert newest_whole(tmp_path).path is None


def test_a_checkpoint_tells_the_options_of_its_run(tmp_path):
    callback = Checkpoint(tmp_path, every=1, keep=2, options={"seed": 3, "widths": [1, None]})
    trainer = Saver()
    trainer.content["callbacks"] = {"Checkpoint": callback.state_dict()}
    callback.on_train_batch_end(trainer, at(1))
    path = tmp_path / "step_00000001.ckpt"
    assert options_in(path) == {"seed": 3, "widths": [1, None]}
    path.write_bytes(b"junk")
    assert options_in(path) is None


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
    found = newest_whole(tmp_path)
    assert (step_of(found.path), found.damaged) == (2, [])
    assert not list(tmp_path.glob(".*"))


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
