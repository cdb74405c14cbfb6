"""What is measured before the first step is measured once for all runs that start alike."""

import json

import pytest
import torch

from t2ilab.eval.result import Evaluation
from t2ilab.export.denoiser import load
from t2ilab.measuring.evaluation_cache import _folders, weights_digest
from tests.tiny import command, finished_run

SMALL = (
    *("debug=tiny", "trainer.max_steps=1", "stage.preview_every=2", "stage=sft"),
    *("eval.prompts_per_task=1", "eval.compose_per_task=0", "eval.reference_images=0", "eval.nfe_per_task=1"),
)
MEASURED, READ = "measuring the model before the first step", "an earlier run has measured the model"


def started(run, *options):
    command(*SMALL, f"init_from={finished_run()}", *options, run_dir=run)
    return json.loads((run / "before.json").read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return started(tmp_path_factory.mktemp("first"))


def test_another_seed_and_rate_start_from_what_the_first_run_measured(first, tmp_path, capsys):
    again = started(tmp_path / "again", "seed=7", "optimizer.lr=1e-5")
    said = capsys.readouterr().out
    assert READ in said and MEASURED not in said
    assert again == first
    assert (tmp_path / "again/changes.json").is_file()


@pytest.mark.parametrize("other", ["eval.seed=1", "sampler.grid.steps=3"])
def test_what_would_be_measured_otherwise_is_measured(first, tmp_path, capsys, other):
    started(tmp_path / "other", other)
    assert MEASURED in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_costs_the_later_runs_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("t2ilab.measuring.evaluation_cache.cache_root", lambda: tmp_path)
    (tmp_path / "before").touch()  # so that there can be no folder of this name
    started(tmp_path / "run")
    assert "note: later runs from this model will measure it again" in capsys.readouterr().out
    assert Evaluation.load(tmp_path / "run/before.json").metrics


def test_every_weight_is_in_the_digest():
    generate = load(finished_run()).generate
    networks = {"denoiser": generate.denoiser, "reward": torch.nn.Linear(2, 1)}
    known = weights_digest(networks)
    assert weights_digest(networks) == known != weights_digest({"denoiser": generate.denoiser})
    for network in networks.values():
        for tensor in network.state_dict().values():
            before = tensor.clone()
            tensor.view(-1)[0] += 1
            assert weights_digest(networks) != known
            tensor.copy_(before)
    assert weights_digest(networks) == known


def test_images_are_known_by_their_own_digests_and_not_read_again(tmp_path):
    nodes = {name: {"path": str(tmp_path), "other": "x"} for name in ("data", "guidance", "autoencoder")}
    nodes["conditioner"] = {"encoders": {"first": {"path": str(tmp_path)}}}
    assert [name for name, _ in _folders(nodes)] == [
        "guidance.path",
        "autoencoder.path",
        "conditioner.encoders.first.path",
    ]
