"""The export: what it says, that it is whole, and everything it refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from t2ilab.core.types import Trajectory
from t2ilab.export import denoiser as artifacts
from t2ilab.export.denoiser import RAW, check_parity, load, save
from t2ilab.export.manifest import (
    MANIFEST,
    export_folder,
    file_digest,
    folder_digest,
    read_manifest,
    write_manifest,
)
from t2ilab.export.reader import WEIGHTS
from t2ilab.pipeline import TextToImage
from tests.tiny import finished_run

PROMPTS = ["a red circle above a blue star", "two green hearts"]


@pytest.fixture
def export(tmp_path):
    """A copy of the export of a finished run, to be spoiled."""
    shutil.copytree(finished_run() / "export", tmp_path / "export")
    return tmp_path / "export"


def change(export, edit):
    """Edits the manifest and keeps its digests true."""
    manifest = json.loads((export / MANIFEST).read_text())
    edit(manifest)
    for name in manifest["files"]:
        manifest["files"][name] = file_digest(export / name)
    (export / MANIFEST).write_text(json.dumps(manifest))


def refusal(export, **options):
    with pytest.raises(ValueError) as caught:
        load(export, **options)
    message = str(caught.value)
    assert message.startswith(f"init_from={export}")
    return message


def test_the_manifest_says_what_the_export_is_and_where_it_comes_from():
    manifest = json.loads((finished_run() / "export" / MANIFEST).read_text())
    assert (manifest["format"], manifest["kind"], manifest["stage"]) == (1, "denoiser", "pretrain")
    assert (manifest["steps"], manifest["images"], manifest["seed"]) == (4, 32, 0)
    assert (manifest["resolution"], manifest["latent_shape"]) == (32, [3, 32, 32])
    assert (manifest["time_scale"], manifest["precision"], manifest["parents"]) == (1000.0, "fp32", [])
    assert manifest["time_offset"] == 0.0
    assert manifest["command"] == "python -m t2ilab debug=tiny"
    assert manifest["evaluation"].keys() >= {"judge/overall", "loss/heldout"}
    nodes = manifest["nodes"]
    assert set(nodes) == {
        *("model", "path", "prediction", "conditioner", "autoencoder", "sampler", "guidance"),
    }
    assert nodes["sampler"]["grid"]["steps"] == 2
    assert nodes["model"]["width"] == 32


def test_every_file_of_the_export_stands_in_the_manifest_with_its_digest():
    folder = finished_run() / "export"
    manifest = json.loads((folder / MANIFEST).read_text())
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    assert set(manifest["files"]) == there
    assert {WEIGHTS, RAW, "model_index.json"} <= there
    assert all(file_digest(folder / name) == digest for name, digest in manifest["files"].items())
    assert not [name for name in there if not name.endswith((".json", ".safetensors"))], "no pickles"


def test_an_export_is_found_from_the_run_and_from_its_own_folder():
    assert export_folder(finished_run()) == export_folder(finished_run() / "export")


def test_the_loaded_model_draws_the_same_latents_twice_and_whatever_the_grouping():
    first, again = load(finished_run()).generate, load(finished_run() / "export").generate
    both = first.latents(PROMPTS, seed=3, rows=[0, 1])
    assert torch.equal(both, again.latents(PROMPTS, seed=3, rows=[0, 1]))
    alone = again.latents(PROMPTS[1:], seed=3, rows=[1])
    torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-5)


def test_an_export_written_again_from_what_was_loaded_is_bit_equal(tmp_path):
    artifact = load(finished_run())
    manifest = artifact.manifest
    facts = {key: manifest[key] for key in ("stage", "parents", "resolution", "data")}
    raw = load(finished_run(), weights="raw").denoiser.backbone.state_dict()
    save(tmp_path, artifact.generate, nodes=manifest["nodes"], facts=facts, raw=raw)
    assert check_parity(tmp_path, artifact.generate, PROMPTS) == 0.0
    assert file_digest(tmp_path / WEIGHTS) == manifest["files"][WEIGHTS]
    assert file_digest(tmp_path / RAW) == manifest["files"][RAW]


def test_an_export_that_draws_other_images_than_the_run_is_an_error(tmp_path):
    artifact = load(finished_run())
    with torch.no_grad():
        artifact.denoiser.backbone.final.bias += 1e-3
    with pytest.raises(ValueError, match="makes other images than the run"):
        check_parity(finished_run() / "export", artifact.generate, PROMPTS)


def test_raw_and_averaged_weights_both_load_and_differ():
    averaged, raw = load(finished_run()), load(finished_run(), weights="raw")
    files = finished_run() / "export"
    for artifact, name in ((averaged, WEIGHTS), (raw, RAW)):
        stored = load_file(files / name)
        state = artifact.denoiser.backbone.state_dict()
        assert all(torch.equal(state[key], value) for key, value in stored.items())
        assert not artifact.denoiser.training
    images = [a.generate.latents(PROMPTS, seed=0, rows=[0, 1]) for a in (averaged, raw)]
    assert not torch.equal(*images)
    with pytest.raises(ValueError, match=r"stage\.weights must be ema, raw or posthoc:.*, got best"):
        load(finished_run(), weights="best")


def test_diffusers_finds_its_table_of_contents():
    index = json.loads((finished_run() / "export/model_index.json").read_text())
    assert index["transformer"] == ["t2ilab.models.dit", "DiT"]
    scheduler = json.loads((finished_run() / "export/scheduler/scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["shift"]) == ("FlowMatchEulerDiscreteScheduler", 2.2)
    config = json.loads((finished_run() / "export/transformer/config.json").read_text())
    assert (config["_class_name"], config["width"]) == ("DiT", 32)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"init_from=.*nowhere: there is no such folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_an_export_says_what_to_give(tmp_path):
    assert "give the folder of a finished run" in refusal(tmp_path)


def test_an_export_of_another_kind_is_refused(export):
    change(export, lambda manifest: manifest.update(kind="autoencoder"))
    assert "is an export of kind autoencoder; a denoiser or adapter is needed here" in refusal(export)
    assert read_manifest(export, kind="autoencoder")[0] == export


def test_an_export_of_another_format_is_refused(export):
    change(export, lambda manifest: manifest.update(format=2))
    assert "format 2, this version of t2ilab reads 1" in refusal(export)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"export"', '{"format": 1}', "\xff"])
def test_a_damaged_manifest_is_refused(export, text):
    (export / MANIFEST).write_text(text, encoding="latin-1")
    assert "is damaged" in refusal(export) or "is not the manifest of an export" in refusal(export)


@pytest.mark.parametrize("name", [WEIGHTS, RAW, "model_index.json", "transformer/config.json"])
def test_a_changed_file_is_named(export, name):
    data = bytearray((export / name).read_bytes())
    data[-1] ^= 1
    (export / name).write_bytes(bytes(data))
    assert f"{name} has changed since it was exported" in refusal(export)


@pytest.mark.parametrize("name", [WEIGHTS, RAW, "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(export, name):
    (export / name).unlink()
    assert f"the export lacks {name}" in refusal(export)


def test_weights_that_do_not_fit_the_described_model_are_refused_by_name(export):
    weights = load_file(export / WEIGHTS)
    left_out = next(name for name in weights if name.endswith("final.bias"))
    save_file({name: value for name, value in weights.items() if name != left_out}, export / WEIGHTS)
    change(export, lambda manifest: None)
    message = refusal(export)
    assert "does not fit the model that the manifest describes" in message
    assert left_out in message


def test_weights_of_another_width_are_refused(export):
    change(export, lambda manifest: manifest["nodes"]["model"].update(width=64))
    assert "does not fit the model that the manifest describes" in refusal(export)


def test_one_tensor_too_many_is_refused(export):
    save_file(load_file(export / WEIGHTS) | {"surplus": torch.zeros(1)}, export / WEIGHTS)
    change(export, lambda manifest: None)
    assert "surplus" in refusal(export)


def test_an_option_that_this_version_does_not_know_is_refused(export):
    change(export, lambda manifest: manifest["nodes"]["model"].update(novelty=3))
    message = refusal(export)
    assert "the manifest does not fit this version of t2ilab: model.novelty: unknown option" in message


def test_a_part_that_is_not_described_is_refused(export):
    change(export, lambda manifest: manifest["nodes"].pop("sampler"))
    assert "sampler: missing" in refusal(export)


def test_a_class_that_is_gone_is_refused(export):
    change(export, lambda manifest: manifest["nodes"]["path"].update(_target_="t2ilab.core.path.Lost"))
    assert "made by another version of t2ilab, or damaged" in refusal(export)


FOREIGN = [
    "os.system",
    "builtins.eval",
    "t2ilab_lookalike.Net",
    "t2ilab.export.denoiser.shutil",  # what our modules import is not ours
    "t2ilab.core.path.torch",
    "t2ilab.export.denoiser.save_weights",  # functions write files
    "t2ilab.export.denoiser.Path",
]


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("place", ["path", "sampler.grid", "data"])
def test_a_manifest_may_name_only_classes_of_this_package(export, target, place, monkeypatch):
    def spoil(manifest):
        node = {"_target_": target}
        if place == "data":
            manifest["data"] = node
        elif place == "path":
            manifest["nodes"]["path"] = node
        else:
            manifest["nodes"]["sampler"]["grid"] = node

    called = []
    monkeypatch.setattr("os.system", called.append)
    change(export, spoil)
    message = refusal(export)
    assert f"names what is not a class of t2ilab: {target}" in message
    assert "stage.trusted=[" in message
    assert called == []


USER_CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, *, channels):
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1)

    def forward(self, x, t, cond=None, taps=()):
        return self.layer(x), {}
"""


def test_a_model_of_a_user_is_exported_and_loads_only_where_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "their_models.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    artifact = load(finished_run())
    node = {"_target_": "their_models.Net", "channels": 3}
    import their_models

    artifact.denoiser.backbone = their_models.Net(channels=3)
    folder = tmp_path / "export"
    nodes = artifact.manifest["nodes"] | {"model": node}
    save(folder, artifact.generate, nodes=nodes, facts={}, raw=artifact.denoiser.backbone.state_dict())
    assert check_parity(folder, artifact.generate, PROMPTS) == 0.0
    message = refusal(folder)
    assert "names what is not a class of t2ilab: their_models.Net" in message
    assert "stage.trusted=[their_models]" in message
    again = load(folder, trusted=("their_models",))
    assert isinstance(again.denoiser.backbone, their_models.Net)
    monkeypatch.delitem(sys.modules, "their_models")


class Encoder(nn.Module):
    """Stands for a part that reads a folder."""


def _with_encoder(folder, tokenizer, monkeypatch, limit):
    monkeypatch.setattr("t2ilab.export.manifest.CARRY_BYTES", limit)
    artifact = load(finished_run())
    node = {
        "_target_": "tests.export.test_denoiser.Encoder",
        "path": str(folder),
        "tokenizer_path": str(tokenizer),
    }
    nodes = artifact.manifest["nodes"] | {"conditioner": node}
    raw = artifact.denoiser.backbone.state_dict()
    return lambda target: save(target, artifact.generate, nodes=nodes, facts={}, raw=raw)


@pytest.fixture
def encoder_folders(tmp_path):
    for name in ("encoder", "words"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.json").write_text(f'"{name}"')
    return tmp_path / "encoder", tmp_path / "words"


def test_small_encoders_and_their_tokenizers_travel_inside_the_export(tmp_path, encoder_folders, monkeypatch):
    manifest = _with_encoder(*encoder_folders, monkeypatch, 1 << 20)(tmp_path / "export")
    node = manifest["nodes"]["conditioner"]
    assert (node["path"], node["tokenizer_path"]) == ("./text_encoder", "./tokenizer")
    assert manifest["references"] == {}
    assert {"text_encoder/file.json", "tokenizer/file.json"} <= set(manifest["files"])
    assert (tmp_path / "export/tokenizer/file.json").read_text() == '"words"'


def test_large_encoders_are_referred_to_by_digest_and_watched(tmp_path, encoder_folders, monkeypatch):
    encoder, words = encoder_folders
    manifest = _with_encoder(encoder, words, monkeypatch, 0)(tmp_path / "export")
    assert manifest["nodes"]["conditioner"]["path"] == str(encoder.resolve())
    assert manifest["references"][str(encoder.resolve())] == folder_digest(encoder)
    (encoder / "file.json").write_text("other")
    message = refusal(tmp_path / "export", trusted=("tests",))
    assert f"refers to {encoder.resolve()}, which has changed since the export" in message
    shutil.rmtree(words)
    (encoder / "file.json").write_text('"encoder"')
    assert "which is not on this machine" in refusal(tmp_path / "export", trusted=("tests",))


def test_a_copied_export_needs_nothing_of_the_place_it_was_made_in(tmp_path):
    shutil.copytree(finished_run() / "export", tmp_path / "moved")
    assert isinstance(load(tmp_path / "moved").generate, TextToImage)
    assert load(tmp_path / "moved").path == tmp_path / "moved"
    manifest = json.loads((tmp_path / "moved" / MANIFEST).read_text())
    del manifest["command"], manifest["config"]  # what was typed, where
    assert str(Path(finished_run()).parent) not in json.dumps(manifest)


def test_an_export_of_an_encoder_has_the_same_manifest(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("{}")
    write_manifest(tmp_path, "autoencoder", {"stage": "autoencoder"})
    _, manifest = read_manifest(tmp_path, kind="autoencoder")
    assert list(manifest["files"]) == ["vae/config.json"]
    message = refusal(tmp_path)
    assert "is an export of kind autoencoder; a denoiser or adapter is needed here" in message


@pytest.mark.parametrize(
    ("prediction", "scheduler"),
    [("Velocity", "FlowMatchEulerDiscreteScheduler"), ("Eps", "DPMSolverPP2M")],
)
def test_diffusers_scheduler_is_named_only_where_it_would_draw_the_same(prediction, scheduler):
    nodes = {
        "path": {"_target_": "t2ilab.core.path.Linear"},
        "prediction": {"_target_": f"t2ilab.core.prediction.{prediction}"},
        "sampler": {"_target_": "t2ilab.sampling.dpm.DPMSolverPP2M", "grid": {"shift": 3.0}},
        "model": {"_target_": "t2ilab.models.dit.DiT"},
        "autoencoder": {"_target_": "t2ilab.latents.identity.Identity"},
        "conditioner": {"_target_": "t2ilab.text.random.Random"},
    }
    assert artifacts._index(nodes, finished_run())["scheduler"][1] == scheduler
    assert ("_class_name" in artifacts.scheduler_config(nodes)) == (prediction == "Velocity")


def test_latents_that_are_no_numbers_are_no_parity():
    artifact = load(finished_run())
    broken = artifact.generate.with_(
        sampler=lambda *args, **options: Trajectory(torch.full((2, 3, 32, 32), torch.nan))
    )
    with pytest.raises(ValueError, match="makes other images than the run"):
        check_parity(finished_run() / "export", broken, PROMPTS)
