"""`stage=export`: what was chosen for one command becomes the model's own."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.config.composition import checked
from t2ilab.export.denoiser import RAW, load
from t2ilab.export.manifest import MANIFEST, file_digest
from t2ilab.export.reader import WEIGHTS
from t2ilab.runs.finished_model import open_model
from t2ilab.training.start import Start
from tests.tiny import command, finished_run, workplace

PROMPTS = ["a red circle above a blue star", "two green hearts"]


def export(folder, *options, init_from=None):
    command("stage=export", f"init_from={init_from or finished_run()}", *options, run_dir=folder)
    return json.loads((folder / "export" / MANIFEST).read_text())


def latents(path, **options):
    return load(path, **options).generate.latents(PROMPTS, seed=0, rows=[0, 1])


@pytest.fixture(scope="module")
def powered():
    """A run with snapshots of two widths and an early one."""
    folder = workplace() / "powered"
    command("debug=tiny", "ema=power", "ema.every=1", "ema.snapshot_at=0.5", run_dir=folder)
    return folder


def test_without_a_choice_the_new_export_is_the_old_one_with_its_lineage(tmp_path):
    manifest = export(tmp_path)
    old = json.loads((finished_run() / "export" / MANIFEST).read_text())
    same = (
        "files",
        "nodes",
        "steps",
        "images",
        "resolution",
        "data",
        "latent_shape",
        "precision",
        "time_scale",
        "time_offset",
    )
    assert all(manifest[name] == old[name] for name in same)
    (parent,) = manifest["parents"]
    assert parent["digest"] == file_digest(finished_run() / "export" / MANIFEST)
    assert manifest["stage"] == "export"
    assert "evaluation" not in manifest  # it was measured with other parts
    assert manifest["trained_by"] == old["stage"]
    later = checked(["stage=sft", f"init_from={tmp_path}", "timestep.shift=7"])
    assert (Start.of(later).other_times(later) or "").startswith("times: timestep.shift=7 here")
    assert torch.equal(latents(tmp_path), latents(finished_run()))


def test_an_export_takes_the_place_of_an_earlier_one_whole_and_only_if_it_draws_the_same(
    tmp_path, monkeypatch
):
    files = export(tmp_path)["files"]
    (tmp_path / "export" / "guide").mkdir()
    (tmp_path / "export" / "guide" / "weights").write_text("of the earlier one")
    assert export(tmp_path)["files"] == files and not (tmp_path / "export" / "guide").exists()

    def other(*_):
        raise ValueError("other images")

    before = (tmp_path / "export" / MANIFEST).read_bytes()
    monkeypatch.setattr("t2ilab.stages.export.check_parity", other)
    with pytest.raises(ValueError, match="other images"):
        export(tmp_path)
    assert (tmp_path / "export" / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if "export" in path.name) == ["export"]


def test_an_average_of_another_width_becomes_the_weights_of_the_model(powered, tmp_path):
    manifest = export(tmp_path, "stage.weights=posthoc:0.07", init_from=powered)
    assert manifest["weights"] == "posthoc:0.07"
    assert torch.equal(latents(tmp_path), latents(powered, weights="posthoc:0.07"))
    assert not torch.equal(latents(tmp_path), latents(powered))
    raw = [load_file(folder / "export" / RAW) for folder in (tmp_path, powered)]
    assert all(torch.equal(raw[0][name], value) for name, value in raw[1].items())


def test_raw_weights_become_the_averaged_ones(tmp_path):
    export(tmp_path, "stage.weights=raw")
    averaged, raw = load_file(tmp_path / "export" / WEIGHTS), load_file(finished_run() / "export" / RAW)
    assert all(torch.equal(averaged[name], value) for name, value in raw.items())


def test_a_model_with_a_trained_text_encoder_has_no_raw_weights_in_a_new_export_either(tmp_path):
    old = shutil.copytree(finished_run(), tmp_path / "old")
    manifest = json.loads((old / "export" / MANIFEST).read_text())
    (old / "export" / MANIFEST).write_text(json.dumps(manifest | {"learned_text": True}))
    assert export(tmp_path / "new", init_from=old)["learned_text"]
    with pytest.raises(ValueError, match="the average is kept alone"):
        load(tmp_path / "new", weights="raw")


def test_sampler_and_guidance_become_those_of_the_model(powered, tmp_path):
    early = ("guidance=early", "guidance.scale=3")
    choices = {
        "early": (powered, early),
        "guided": (finished_run(), ("guidance=autoguidance", f"guidance.path={powered}", "guidance.scale=3")),
        "heun": (finished_run(), ("sampler=heun", "sampler.grid.steps=3")),
    }
    for name, (init_from, options) in choices.items():
        export(tmp_path / name, *options, init_from=init_from)
        own = latents(tmp_path / name)
        one = ("stage=sample", f"init_from={init_from}", "prompts=[a]", *options)
        config = command(*one, run_dir=tmp_path / f"{name}_drawn")
        _, generate = open_model(config)
        assert torch.equal(own, generate.latents(PROMPTS, seed=0, rows=[0, 1])), name
        assert not torch.equal(own, latents(init_from)), name


def test_an_export_of_an_export_keeps_its_guide(powered, tmp_path):
    export(tmp_path / "one", "guidance=autoguidance", f"guidance.path={powered}")
    export(tmp_path / "two", init_from=tmp_path / "one")
    assert load(tmp_path / "two").guidance.path == str(tmp_path / "two/export/guide")
    assert torch.equal(latents(tmp_path / "two"), latents(tmp_path / "one"))


def test_the_precision_is_that_of_the_old_export_unless_it_is_chosen(tmp_path):
    assert export(tmp_path / "kept")["precision"] == "fp32"
    assert export(tmp_path / "bf16", "trainer.precision=bf16")["precision"] == "bf16"
    assert export(tmp_path / "still", init_from=tmp_path / "bf16")["precision"] == "bf16"
