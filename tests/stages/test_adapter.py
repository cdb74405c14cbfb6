"""Adapters in the stages: what trains, what is saved, what goes on, and what is refused."""

import contextlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.callbacks.checkpoint import newest_whole
from t2ilab.config.composition import checked
from t2ilab.export.denoiser import load
from t2ilab.export.manifest import MANIFEST
from t2ilab.models.injection import injected
from t2ilab.pairs import PairFiles
from t2ilab.training.start import Start
from tests.runs import crash_here, run_here, same_run
from tests.tiny import CPU, command, finished_run

SHORT = ("debug=tiny", "trainer.max_steps=2", "stage.preview_every=2", "adapter.rank=2", "optimizer.lr=0.02")
KINDS = ("lora", "dora", "pissa", "lokr")  # of the two others tests/models/test_adapters.py says enough
EMA = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A run of two steps for each kind, made when it is asked for; what it prints is in out.txt."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "run"
            options = ("stage=sft", f"init_from={finished_run()}", f"adapter={kind}", "adapter.alpha=6")
            with (made[kind].parent / "out.txt").open("w") as out, contextlib.redirect_stdout(out):
                command(*SHORT, *options, run_dir=made[kind])
        return made[kind]

    return run


def manifest(run):
    return json.loads((run / "export" / MANIFEST).read_text())


def latents(path, **options):
    model = load(path, **options)
    return model.generate.latents(["a red circle", "two blue stars"], seed=3, rows=[0, 1])


@pytest.mark.parametrize(
    "kind", [*KINDS[:1], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_an_adapter_of_every_kind_trains_alone_and_its_export_names_its_base(adapted, kind):
    run = adapted(kind)
    found = manifest(run)
    assert found["kind"] == "adapter" and found["base"]["path"] == str(finished_run() / "export")
    assert found["parents"][0]["digest"] == found["base"]["digest"]
    base = load_file(finished_run() / "export" / EMA)
    model = load(run)
    state = model.denoiser.backbone.state_dict()
    inside = kind == "pissa"
    for name, value in base.items():
        own = state.get(
            name,
            state.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")),
        )
        assert inside or torch.equal(own, value)
    saved = load_file(run / "export/adapter/weights.safetensors")
    assert saved and all(torch.isfinite(value).all() for value in saved.values())
    assert not torch.equal(latents(run), latents(finished_run()))
    assert sum(v.numel() for v in saved.values()) < sum(v.numel() for v in base.values())


def test_a_checkpoint_holds_the_adapter_and_not_its_base(adapted):
    found = torch.load(newest_whole(adapted("lora") / "checkpoints").path, weights_only=True)
    names = [name for name in found["state_dict"] if name.startswith("student.")]
    assert names and all("lora_" in name for name in names)
    (average,) = (state["shadow"] for state in found["callbacks"].values() if "shadow" in state)
    assert average and all("lora_" in name for name in average)


def test_the_start_line_says_what_trains(adapted):
    said = (adapted("lora").parent / "out.txt").read_text()
    assert "adapter: LoRA of rank 2 at 6 layers, 1.15 k weights train" in said


@pytest.mark.slow
def test_a_run_with_an_adapter_that_dies_goes_on_bit_for_bit(tmp_path, own_cache):
    """PiSSA: some layers of the base are its own, the others are given back by it."""
    options = (
        "stage=sft",
        f"init_from={finished_run()}",
        "adapter=pissa",
        "adapter.rank=2",
        "optimizer.lr=0.02",
    )
    run_here(tmp_path / "whole", *options)
    crash_here(tmp_path / "died", 3, *options)
    run_here(tmp_path / "died", *options)
    same_run(tmp_path / "died", tmp_path / "whole")


def test_a_scale_of_0_is_the_base_and_of_1_the_adapter_and_halves_add_up(adapted):
    run = adapted("lora")
    assert torch.equal(latents(run, scales=0.0), latents(finished_run()))
    torch.testing.assert_close(latents(run, scales=1.0), latents(run), atol=1e-4, rtol=1e-4)
    both = latents([str(run), str(run)], scales=[0.25, 0.75])
    torch.testing.assert_close(both, latents(run), atol=1e-4, rtol=1e-4)


def test_a_base_that_is_given_beside_its_adapter_or_in_a_wrong_place_is_answered_by_name(adapted):
    run = str(adapted("lora"))
    with pytest.raises(ValueError, match=r"^stage\.base=nowhere: there is no such folder"):
        load(run, base="nowhere")
    with pytest.raises(ValueError, match="is a whole model; an adapter brings its model along"):
        load([str(finished_run()), run])
    with pytest.raises(ValueError, match=r"is a whole model and has no base; omit stage\.base"):
        load(finished_run(), base=run)


def test_the_files_of_an_adapter_are_read_beside_its_base(adapted, tmp_path):
    run, base = adapted("lora"), str(finished_run())
    file = str(run / "export/pytorch_lora_weights.safetensors")
    torch.testing.assert_close(latents([base, file]), latents(run), atol=1e-4, rtol=1e-4)
    assert torch.equal(latents([base, file], scales=0.0), latents(base))
    command("stage=export", f"init_from=[{base},{file}]", run_dir=tmp_path / "whole")
    torch.testing.assert_close(latents(tmp_path / "whole"), latents(run), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="a model comes first, and files of adapters alone behind it"):
        load([file, base])
    with pytest.raises(ValueError, match="one factor for each of 1 files"):
        load([base, file], scales=[1.0, 0.5])


def test_an_adapter_is_merged_by_the_stage_export(adapted, tmp_path):
    run = adapted("lora")
    command("stage=export", f"init_from={run}", run_dir=tmp_path / "merged")
    assert manifest(tmp_path / "merged")["kind"] == "denoiser"
    torch.testing.assert_close(latents(tmp_path / "merged"), latents(run), atol=1e-4, rtol=1e-4)
    command("stage=export", f"init_from={run}", "stage.format=kohya", run_dir=tmp_path / "kohya")
    found = load_file(tmp_path / "kohya/kohya.safetensors")
    assert found["lora_transformer_blocks_0_attention_qkv.alpha"] == 6


def test_an_adapter_trains_on_or_is_merged_first(adapted, tmp_path):
    run = adapted("lora")
    options = (*SHORT[:3], "stage=sft", f"init_from={run}", "optimizer.lr=0")
    command(*options, run_dir=tmp_path / "on")
    assert manifest(tmp_path / "on")["base"] == manifest(run)["base"]
    assert torch.equal(latents(tmp_path / "on"), latents(run))
    command(
        *options, "stage.merge_adapter=true", "adapter=lora", "adapter.rank=1", run_dir=tmp_path / "stacked"
    )
    assert manifest(tmp_path / "stacked")["base"]["path"] == str(run / "export")
    torch.testing.assert_close(latents(tmp_path / "stacked"), latents(run), atol=1e-4, rtol=1e-4)
    merged = checked([*CPU, *options, "stage.merge_adapter=true", f"run_dir={tmp_path / 'merged'}"])
    assert injected(Start.of(merged).student().backbone) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["optimizer=muon"], "optimizer: a step of Muon"),
        (["ema=power"], "ema: snapshots are of whole networks"),
        (["adapter.rank=0"], "adapter.rank must be at least 1"),
        (["adapter.targets=[nothing]"], r"no layer ends in nothing; there are blocks.\*.attention.out"),
        (["adapter.targets=everything"], "adapter.targets must be one of attention, all"),
    ],
)
def test_what_does_not_go_with_an_adapter_is_refused(options, said, tmp_path):
    base = ("debug=tiny", "stage=sft", f"init_from={finished_run()}", "adapter=lora")
    with pytest.raises(ValueError, match=said):
        command(*base, *options, run_dir=tmp_path / "run")


def test_the_weaker_model_that_guides_an_adapter_travels_with_it(tmp_path):
    weak = shutil.copytree(finished_run(), tmp_path / "weak")
    guided = ("guidance=autoguidance", f"guidance.path={weak}")
    run = tmp_path / "run"
    command(*SHORT, "stage=sft", f"init_from={finished_run()}", "adapter=lora", *guided, run_dir=run)
    before = latents(run)
    weak.rename(tmp_path / "elsewhere")
    assert load(run).guidance.path == str(run / "export/guide")
    assert torch.equal(latents(run), before)


def test_an_adapter_whose_base_has_moved_asks_for_it(adapted, tmp_path):
    import shutil

    run, base = (
        shutil.copytree(adapted("lora"), tmp_path / "run"),
        shutil.copytree(finished_run(), tmp_path / "far/base"),
    )
    path = run / "export" / MANIFEST
    found = json.loads(path.read_text())
    found["base"]["path"] = str(tmp_path / "gone")
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"stage\.base="):
        load(run)
    assert torch.equal(latents(run, base=str(base)), latents(adapted("lora")))
    on = (*SHORT[:3], "stage=sft", f"init_from={run}", f"stage.base={base}", "optimizer.lr=0")
    with pytest.raises(ValueError, match="a new adapter on both would not find it: export both"):
        command(*on, "stage.merge_adapter=true", "adapter=lora", run_dir=tmp_path / "stacked")
    command(*on, run_dir=tmp_path / "on")
    assert manifest(tmp_path / "on")["base"]["path"] == str(base / "export")
    assert torch.equal(latents(tmp_path / "on"), latents(adapted("lora")))
    drawing = (
        "stage=pairs",
        "reward=none",
        "stage.prompts=2",
        "stage.images=1",
        "stage.skip_evaluated=false",
    )
    command(*drawing, f"init_from={run}", f"stage.base={base}", run_dir=tmp_path / "drawn")
    assert len(PairFiles(tmp_path / "drawn")) == 2
    (base / "export" / MANIFEST).write_text((base / "export" / MANIFEST).read_text() + " ")
    with pytest.raises(ValueError, match="an adapter of another model"):
        load(run, base=str(base))


@pytest.mark.parametrize("place", ["new/pretrain/base", "new/tuned/renamed"])
def test_a_base_that_moved_along_or_lies_beside_is_found_by_its_digest(place, adapted, tmp_path):
    import shutil

    run = shutil.copytree(adapted("lora"), tmp_path / "new/tuned/run")
    path = run / "export" / MANIFEST
    found = json.loads(path.read_text())
    found["base"]["path"] = str(tmp_path / "old/pretrain/base/export")
    path.write_text(json.dumps(found))
    base = shutil.copytree(finished_run(), tmp_path / place)
    assert torch.equal(latents(run), latents(adapted("lora")))
    (base / "export" / MANIFEST).write_text((base / "export" / MANIFEST).read_text() + " ")
    with pytest.raises(ValueError, match=r"which is not there: say where it is with stage\.base="):
        load(run)


def test_a_list_of_whole_models_is_refused(tmp_path):
    with pytest.raises(ValueError, match="are for adapters"):
        load([str(finished_run()), str(finished_run())])
