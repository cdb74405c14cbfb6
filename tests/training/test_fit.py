import pytest
import torch
from torch import nn

from t2ilab.callbacks.checkpoint import AtomicCheckpointIO
from t2ilab.core.types import Batch
from t2ilab.objectives.base import NOTHING, Losses, Objective
from t2ilab.runs.folder import RunDir
from t2ilab.runs.machine import CheckpointOptions, TrainerOptions, device_of, settled
from t2ilab.training import fit as fitting
from t2ilab.training.fit import count, start_from, start_line, to_go_on
from t2ilab.training.learner import Learner


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (67_400, "67.4 k"),
        (1_900_000, "1.9 M"),
        (675e6, "675 M"),
        (2.5e9, "2.5 G"),
    ],
)
def test_numbers_are_counted_in_thousands_millions_and_billions(number, text):
    assert count(number) == text


@pytest.mark.parametrize(("threads", "by"), [(None, ""), (1, " on 1 thread"), (2, " on 2 threads")])
def test_the_start_line_says_what_on_what_how_large_and_how_long(threads, by):
    network = nn.Sequential(nn.Linear(30, 50), nn.Linear(50, 7))
    network[1].requires_grad_(False)
    line = start_line(
        what="pretrain",
        on="9 images",
        network=network,
        tokens=64,
        steps=20,
        batch=8,
        precision="fp32",
        threads=threads,
        seconds=185.0,
    )
    assert line == (
        "training pretrain on 9 images: 1.55 k parameters, 64 tokens per image, 20 steps of 8 images in fp32"
        f"{by}, about 3:05"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "trainer.max_steps"),
        ({"devices": 0}, "trainer.devices"),
        ({"num_nodes": 0}, "trainer.num_nodes"),
        ({"accumulate": 0}, "trainer.accumulate"),
        ({"precision": "fp8"}, "trainer.precision"),
        ({"clip": -1.0}, "trainer.clip"),
        ({"threads": -1}, "trainer.threads"),
        ({"accelerator": "foo"}, "trainer.accelerator"),
        ({"accelerator": "tpu"}, "trainer.accelerator must be one of auto, cpu, gpu, cuda, mps"),
        ({"profiler": "fast"}, "trainer.profiler must be one of simple, advanced, pytorch, null"),
        ({"profiler": nn.Identity()}, "trainer.profiler must be .* Profiler of Lightning"),
        ({"strategy": "fsdp"}, "trainer.strategy must be one of auto, ddp, got fsdp"),
    ],
)
def test_impossible_trainer_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**{"max_steps": 1} | options)


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1, "keep": 0}])
def test_impossible_checkpoint_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=r"checkpoint.every and checkpoint.keep"):
        CheckpointOptions(**options)


def test_the_world_is_all_processes_of_all_nodes():
    assert TrainerOptions(max_steps=1, devices=4, num_nodes=2).world == 8


def test_as_many_devices_as_there_are_become_a_number_at_once(monkeypatch):
    def number(**options):
        return TrainerOptions(max_steps=1, devices="auto", **options).devices

    assert number(accelerator="cpu") == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert number() == number(accelerator="gpu") == 8 and number(accelerator="cpu") == 1
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert number(num_nodes=2) == 3, "what torchrun has started counts, not what is there"


def test_mps_is_taken_where_it_is_and_said_to_be_untested(monkeypatch, capsys):
    options = TrainerOptions(max_steps=1, accelerator="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"trainer.accelerator=mps, but no MPS device"):
        settled(options)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of(options) == torch.device("mps")
    assert settled(options).precision == "fp32"
    assert "trainer.accelerator=mps is untested" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(TrainerOptions(max_steps=1)) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"trainer.accelerator=cpu"):
        device_of(TrainerOptions(max_steps=1, accelerator="gpu"))


class Squares(Objective):
    def forward(self, batch, rng, player="student", kept=NOTHING):
        return Losses({"loss": self.student(batch.x0).square().mean(1)})


class Plain(Learner):
    def to_batch(self, rows, rng):
        return Batch(rows["x"])


def checkpoint(run, step):
    content = {"state_dict": {}, "optimizer_states": [], "loops": {}, "step": step}
    AtomicCheckpointIO().save_checkpoint(content, run.checkpoints / f"step_{step:08d}.ckpt")


def cut(run, step):
    path = run.checkpoints / f"step_{step:08d}.ckpt"
    path.write_bytes(path.read_bytes()[:-1])


def test_a_run_starts_from_its_newest_whole_checkpoint_and_sets_newer_wrecks_aside(tmp_path, capsys):
    run = RunDir(tmp_path)
    assert start_from(run, 100) is None and capsys.readouterr().out == ""
    for step in (5, 10, 15):
        checkpoint(run, step)
    cut(run, 10)
    cut(run, 15)
    assert start_from(run, 100) == run.checkpoints / "step_00000005.ckpt"
    told = capsys.readouterr().out
    assert (
        "warning: step_00000015.ckpt is not whole (File is not a zip file): it is not used and lies as step"
        in told
    )
    assert told.count("warning: step_") == 2 and "continuing from" in told
    assert sorted(path.name for path in run.checkpoints.glob("*.damaged")) == [
        "step_00000010.ckpt.damaged",
        "step_00000015.ckpt.damaged",
    ]
    assert start_from(run, 100) == run.checkpoints / "step_00000005.ckpt"
    assert "warning" not in capsys.readouterr().out


def test_a_run_whose_checkpoints_are_all_broken_is_refused_and_nothing_is_renamed(tmp_path):
    run = RunDir(tmp_path)
    for step in (5, 10):
        checkpoint(run, step)
        cut(run, step)
    before = sorted(run.checkpoints.iterdir())
    with pytest.raises(ValueError, match="no checkpoint that is whole") as caught:
        start_from(run, 100)
    assert "\n  - step_00000010.ckpt is not whole (" in str(caught.value)
    assert sorted(run.checkpoints.iterdir()) == before


@pytest.mark.parametrize("left", ["step_00000005.ckpt.damaged", "last.ckpt", "step_best.ckpt"])
def test_a_run_with_checkpoints_of_other_names_only_is_not_begun_at_step_0(tmp_path, left):
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / left).write_bytes(b"")
    with pytest.raises(ValueError, match=f"was trained .checkpoints/{left}., and its checkpoints are gone"):
        start_from(run, 100)


def test_fewer_steps_than_are_done_already_are_refused_by_name(tmp_path):
    run = RunDir(tmp_path)
    checkpoint(run, 5)
    assert start_from(run, 5) is not None
    with pytest.raises(ValueError, match=r"5 steps already, more than trainer.max_steps=4"):
        start_from(run, 4)


def test_a_stopped_run_names_the_folder_that_continues_it(tmp_path):
    assert f"run_dir={tmp_path.resolve()}" in to_go_on(RunDir(tmp_path))


def test_after_training_the_networks_are_where_the_encoders_are(tmp_path, monkeypatch):
    """Lightning puts them on the CPU at the end; `meta` stands for a GPU here."""
    from t2ilab.averages.ema import EMA
    from t2ilab.callbacks.metrics import Metrics

    options = {
        "seed": 0,
        "batch_size": 2,
        "optimizer": None,
        "schedule": lambda step, total: 1.0,
        "clip": 0.0,
    }
    stage = Plain(nn.Linear(2, 2), Squares(), **options)

    def train(*args, **options):
        stage.cpu().steps_done = 1

    monkeypatch.setattr(fitting.Trainer, "fit", train)
    monkeypatch.setattr(fitting, "device_of", lambda options: torch.device("meta"))
    fitting.fit(
        stage,
        None,
        RunDir(tmp_path),
        TrainerOptions(max_steps=1, accelerator="cpu", precision="fp32"),
        CheckpointOptions(every=1),
        ema=EMA(decay=0.9),
        metrics=Metrics(tmp_path / "metrics.csv", every=1),
        loggers=[],
        callbacks=[],
    )
    assert {p.device.type for p in stage.parameters()} == {"meta"}
