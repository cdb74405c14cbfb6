"""A weaker model as a guide: from its run to an export that carries it."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from t2ilab.averages import snapshots
from t2ilab.config import composition
from t2ilab.core.autoguidance import Autoguidance
from t2ilab.core.guidance import NoGuidance
from t2ilab.export.denoiser import check_parity, load
from t2ilab.export.manifest import MANIFEST, file_digest
from t2ilab.export.reader import WEIGHTS
from t2ilab.export.weak_model import EarlySelf, provide
from t2ilab.runs.finished_model import open_model
from tests.tiny import command, finished_run

PROMPTS = ["a red circle above a blue star", "two green hearts"]
FEW = ("debug=tiny", "trainer.max_steps=2", "checkpoint.every=2", "stage.preview_every=2")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run of a smaller model that predicts something else: the guide."""
    folder = tmp_path_factory.mktemp("small") / "run"
    command(*FEW, "model.width=16", "prediction=x0", "optimizer.lr=0.02", run_dir=folder)
    return folder


@pytest.fixture(scope="module")
def guided(small, tmp_path_factory):
    """A run whose own guidance is by that model."""
    folder = tmp_path_factory.mktemp("guided") / "run"
    command(*FEW, "guidance=autoguidance", f"guidance.path={small}", run_dir=folder)
    return folder


def latents(generate):
    return generate.latents(PROMPTS, seed=0, rows=[0, 1])


def by(path, generate, artifact, **options):
    rule = Autoguidance(str(path), **options)
    provide(rule, artifact.nodes, artifact.generate.latent_shape, early=None, device="cpu")
    return generate.with_(guidance=rule)


def test_two_exports_of_other_size_and_prediction_are_combined_as_by_hand(small):
    good, weak = load(finished_run()), load(small)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.8])
    cond = good.conditioner(PROMPTS)
    rule = by(small, good.generate, good, scale=3.0).guidance
    guided = rule.bind(good.denoiser, cond)(x, t).x0
    one, other = weak.denoiser(x, t, cond).x0, good.denoiser(x, t, cond).x0
    torch.testing.assert_close(guided, one + 3.0 * (other - one), rtol=1e-4, atol=1e-4)
    assert (guided - other).abs().max() > 0.1


def test_a_model_guided_by_itself_draws_what_it_draws_alone():
    artifact = load(finished_run())
    alone = latents(artifact.generate.with_(guidance=NoGuidance()))
    torch.testing.assert_close(
        latents(by(finished_run(), artifact.generate, artifact)), alone, rtol=1e-4, atol=1e-4
    )


def test_the_command_line_takes_a_run_or_an_export_as_the_guide(small, tmp_path):
    drawn = []
    options = ("stage=sample", f"init_from={finished_run()}", f"prompts=[{PROMPTS[0]}]", "stage.copies=1")
    choices = [("guidance=none",)]
    choices += [("guidance=autoguidance", f"guidance.path={path}") for path in (small, small / "export")]
    for number, choice in enumerate(choices):
        command(*options, *choice, run_dir=tmp_path / str(number))
        (image,) = (tmp_path / str(number) / "samples").glob("000*.png")
        drawn.append(image.read_bytes())
    assert drawn[1] == drawn[2] != drawn[0]


def test_an_export_guided_by_another_carries_it_and_needs_nothing_else(small, guided, tmp_path):
    manifest = json.loads((guided / "export" / MANIFEST).read_text())
    assert manifest["nodes"]["guidance"]["path"] == "./guide"
    assert f"guide/{MANIFEST}" in manifest["files"]
    before = latents(load(guided).generate)
    shutil.copytree(guided / "export", tmp_path / "moved")
    artifact = load(tmp_path / "moved")
    assert artifact.guidance.path == str(tmp_path / "moved/guide")
    assert torch.equal(latents(artifact.generate), before)
    assert torch.equal(latents(by(small, artifact.generate, artifact)), before)
    assert not torch.equal(latents(artifact.generate.with_(guidance=NoGuidance())), before)
    assert check_parity(tmp_path / "moved", artifact.generate, PROMPTS) == 0.0


def test_a_changed_guide_is_noticed(guided, tmp_path):
    shutil.copytree(guided / "export", tmp_path / "moved")
    manifest = tmp_path / "moved/guide" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match=rf"guide/{MANIFEST} has changed since it was exported"):
        load(tmp_path / "moved")


def test_a_large_guide_is_referred_to_and_watched(small, tmp_path, monkeypatch):
    monkeypatch.setattr("t2ilab.export.manifest.CARRY_BYTES", 0)
    guide = shutil.copytree(small, tmp_path / "guide")
    command(*FEW, "guidance=autoguidance", f"guidance.path={guide}", run_dir=tmp_path / "run")
    assert not (tmp_path / "run/export/guide").exists()
    assert load(tmp_path / "run").guidance.path == str(guide / "export")
    (guide / "export/model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"which has changed since the export"):
        load(tmp_path / "run")


def spoiled(small, folder, edit):
    """A copy of the guide's export with another manifest."""
    shutil.copytree(small / "export", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    for name in manifest["files"]:
        manifest["files"][name] = file_digest(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


MISFITS = {
    "makes latents (3, 16, 16), the guided model (3, 32, 32)": lambda m: m.update(latent_shape=[3, 16, 16]),
    "was trained with another conditioner": lambda m: m["nodes"]["conditioner"].update(seed=7),
    "was trained with another autoencoder": lambda m: m["nodes"]["autoencoder"].update(scale=1.0),
    "was trained with another path": lambda m: m["nodes"]["path"].update(_target_="t2ilab.core.path.Trig"),
    "is an export of kind encoder; a denoiser or adapter is needed here": lambda m: m.update(kind="encoder"),
}


@pytest.mark.parametrize("message", MISFITS)
def test_a_guide_of_another_world_is_refused_by_the_name_of_the_option(small, tmp_path, message):
    path, artifact = spoiled(small, tmp_path / "guide", MISFITS[message]), load(finished_run())
    with pytest.raises(ValueError) as caught:
        by(path, artifact.generate, artifact)
    assert str(caught.value).startswith(f"guidance.path={path}")
    assert message in str(caught.value)


def test_a_missing_guide_and_a_folder_without_export_are_refused(tmp_path):
    artifact = load(finished_run())
    for path, message in (
        (tmp_path, "give the folder of a finished run"),
        (tmp_path / "no", "no such folder"),
    ):
        with pytest.raises(ValueError, match=f"guidance.path={path}.*{message}"):
            by(path, artifact.generate, artifact)
    config = {"stage": {"name": "sample", "weights": "ema", "trusted": []}, "sampler": None}
    node = {"_target_": "t2ilab.core.autoguidance.Autoguidance", "path": None}
    trainer = {"_target_": "t2ilab.runs.machine.Device", "accelerator": "cpu", "threads": 1}
    config |= {"init_from": str(finished_run()), "guidance": node, "trainer": trainer}
    with pytest.raises(ValueError, match=r"guidance.path=<run or export folder> is needed"):
        open_model(config)


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run guided by its own average at step 2 of 4."""
    folder = tmp_path_factory.mktemp("early") / "run"
    command("debug=tiny", "guidance=early", "guidance.scale=3", "ema.snapshot_at=0.5", run_dir=folder)
    return folder


def test_the_early_snapshot_travels_in_the_export_and_guides_what_is_loaded(early, tmp_path):
    shutil.copytree(early / "export", tmp_path / "moved")
    manifest = json.loads((tmp_path / "moved" / MANIFEST).read_text())
    assert manifest["files"]["transformer/early.safetensors"] == file_digest(
        early / "averages/early.safetensors"
    )
    artifact = load(tmp_path / "moved")
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.8])
    cond = artifact.conditioner(PROMPTS)
    weak = EarlySelf(early / "averages/early.safetensors")(artifact.denoiser)
    stored = load_file(early / "averages/early.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in weak.state_dict().items())
    one, other = weak(x, t, cond).out, artifact.denoiser(x, t, cond).out
    assert not torch.equal(one, other)
    guided = artifact.guidance.bind(artifact.denoiser, cond)(x, t).out
    torch.testing.assert_close(guided, one + 3.0 * (other - one), rtol=1e-5, atol=1e-5)
    assert check_parity(tmp_path / "moved", artifact.generate, PROMPTS) == 0.0


def test_the_early_snapshot_is_the_average_of_a_run_of_that_many_steps(early, tmp_path):
    """A constant schedule does not know how long the run will be."""
    short, long = tmp_path / "short", tmp_path / "long"
    same = ("debug=tiny", "schedule=constant", "ema.snapshot_at=0.5", "stage.preview_every=100")
    command(*same, "trainer.max_steps=2", run_dir=short)
    command(*same, "trainer.max_steps=4", run_dir=long)
    kept, whole = load_file(long / "averages/early.safetensors"), load_file(short / "export" / WEIGHTS)
    assert all(torch.equal(kept[f"backbone.{name}"], value) for name, value in whole.items())


def test_any_model_with_a_snapshot_can_be_guided_by_it_and_one_without_is_refused(early, tmp_path):
    options = ("stage=sample", f"prompts=[{PROMPTS[0]}]", "stage.copies=1", "guidance=early")
    command(*options, "guidance.scale=3", f"init_from={early}", run_dir=tmp_path / "with")
    own = load(early).generate([PROMPTS[0]], seed=0, rows=[0])
    (image,) = (tmp_path / "with/samples").glob("000*.png")
    drawn = torch.from_numpy(np.asarray(Image.open(image)).copy()).permute(2, 0, 1)
    assert (drawn.int() - own[0].int()).abs().max() <= 1
    with pytest.raises(ValueError, match=r"guidance=early needs .* ema.snapshot_at=0.25"):
        command(*options, f"init_from={finished_run()}", run_dir=tmp_path / "without")
    with pytest.raises(ValueError, match=r"ema.snapshot_at=0.25 keeps one"):
        composition.checked(["debug=tiny", "guidance=early"])


def test_a_model_in_training_is_its_own_early_self_until_the_snapshot_is_there(tmp_path):
    artifact = load(finished_run())
    find = EarlySelf(tmp_path / "early.safetensors")
    assert find(artifact.denoiser) is None
    artifact.denoiser.train()
    first = next(artifact.denoiser.parameters())
    first.grad = torch.ones_like(first)
    weights = {name: 0.5 * value for name, value in artifact.denoiser.state_dict().items()}
    snapshots.write(tmp_path / "early.safetensors", weights, step=1)
    made = find(artifact.denoiser)
    assert find(artifact.denoiser) is made and made is not artifact.denoiser
    assert not made.training and artifact.denoiser.training
    assert not any(p.requires_grad or p.grad is not None for p in made.parameters())
    for one, own in zip(made.parameters(), artifact.denoiser.parameters(), strict=True):
        assert torch.equal(one, 0.5 * own) and one.data_ptr() != own.data_ptr()
