"""Snapshots are whole or not there, say their step, and those of the future are set aside."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2ilab.averages import snapshots


def test_a_snapshot_keeps_every_bit_and_says_its_step_and_what_was_noted(tmp_path):
    weights = {"a": torch.randn(3, 4).T, "b": torch.tensor(7), "c": torch.randn(2).bfloat16()}
    snapshots.write(tmp_path / "averages/one.safetensors", weights, step=12, sigma_rel=0.1)
    path = tmp_path / "averages/one.safetensors"
    found = load_file(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert snapshots.step_of(path) == 12
    assert snapshots.header(path) == {"step": 12, "sigma_rel": 0.1}
    assert [item.name for item in path.parent.iterdir()] == ["one.safetensors"]


def test_the_same_weights_are_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        weights = {"b": torch.arange(3.0), "a": torch.zeros(2)}
        snapshots.write(tmp_path / name, weights, step=3, sigma_rel=0.1, more=1.0, still_more=2.0)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_steps_that_a_run_has_not_reached_are_set_aside_and_other_files_left_alone(tmp_path):
    for step in (5, 10, 15):
        snapshots.write(tmp_path / f"{step}.safetensors", {"a": torch.full((1,), step)}, step=step)
    save_file({"a": torch.zeros(1)}, tmp_path / "own.safetensors")
    (tmp_path / ".notes.tmp").write_bytes(b"somebody's own")
    snapshots.set_later_aside(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".notes.tmp",
        "10.safetensors",
        "15.safetensors.earlier",
        "5.safetensors",
        "own.safetensors",
    ]
    assert load_file(tmp_path / "15.safetensors.earlier")["a"] == 15
    snapshots.set_later_aside(tmp_path / "nowhere", 10)


def test_a_disk_that_is_full_leaves_the_snapshot_before_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "one.safetensors"
    snapshots.write(path, {"a": torch.zeros(1)}, step=5)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"could not save one.safetensors.*No space left.*Make room"):
        snapshots.write(path, {"a": torch.ones(1)}, step=10)
    assert snapshots.step_of(path) == 5
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_snapshot_is_named(tmp_path):
    path = tmp_path / "one.safetensors"
    snapshots.write(path, {"a": torch.zeros(100)}, step=5)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"one.safetensors is damaged"):
        snapshots.header(path)
