"""`stage=sample`: named images that depend on the seed, the prompt's place and the copy, and on nothing else."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilab.export.denoiser import load
from t2ilab.export.manifest import MANIFEST
from t2ilab.pipeline import TextToImage
from t2ilab.runs.finished_model import sampler_node
from t2ilab.runs.machine import Device
from t2ilab.runs.outcome import Interrupted
from t2ilab.signals import Stopped
from t2ilab.stages.sample import verdicts
from tests.tiny import command, finished_run

PROMPTS = "prompts=[a red circle above a blue star, '  Ünusual / name: 3! ']"


def sample(folder, *options, prompts=PROMPTS):
    command("stage=sample", f"init_from={finished_run()}", prompts, *options, run_dir=folder)
    return read_images(folder)


def read_images(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "samples").glob("*.png"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    return folder, sample(folder, "stage.copies=2")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_every_image_is_named_by_prompt_and_copy_and_stands_in_the_grid(drawn):
    _, files = drawn
    assert list(files) == [
        "000_0_a-red-circle-above-a-blue-star.png",
        "000_1_a-red-circle-above-a-blue-star.png",
        "001_0_ünusual-name-3.png",
        "001_1_ünusual-name-3.png",
        "grid.png",
    ]
    assert all(image.shape == (32, 32, 3) for name, image in files.items() if name != "grid.png")
    grid = files["grid.png"]
    assert min(grid.shape[:2]) > 64


def test_images_are_those_of_the_loaded_export(drawn):
    _, files = drawn
    generate = load(finished_run()).generate
    prompt = "a red circle above a blue star"
    direct = generate([prompt] * 2, seed=0, rows=[0, 1])
    for copy in (0, 1):
        stored = torch.from_numpy(files[f"000_{copy}_a-red-circle-above-a-blue-star.png"].copy())
        assert (stored.permute(2, 0, 1).int() - direct[copy].int()).abs().max() <= 1


def test_the_same_command_draws_the_same_bytes(drawn, tmp_path):
    folder, files = drawn
    assert same(sample(tmp_path, "stage.copies=2"), files)
    for path in (folder / "samples").glob("*.png"):
        assert (tmp_path / "samples" / path.name).read_bytes() == path.read_bytes()


def test_images_of_other_prompts_are_not_mixed_up_with_new_ones(tmp_path):
    first = sample(tmp_path, prompts="prompts=[a, b]")
    with pytest.raises(ValueError, match=r"run_dir=.* holds images of another command, such as 001_0_b\.png"):
        sample(tmp_path, prompts="prompts=[a]")
    assert same(read_images(tmp_path), first)
    assert same(sample(tmp_path, prompts="prompts=[a, b]"), first)


def test_another_seed_draws_other_images(drawn, tmp_path):
    _, files = drawn
    other = sample(tmp_path, "stage.copies=2", "seed=1")
    assert not any(np.array_equal(files[name], other[name]) for name in files)


def test_an_image_does_not_depend_on_the_number_of_copies(drawn, tmp_path):
    _, files = drawn
    single = sample(tmp_path, "stage.copies=1")
    for name, image in single.items():
        if name != "grid.png":
            assert np.abs(image.astype(int) - files[name].astype(int)).max() <= 1, name


def test_copies_of_a_prompt_differ(drawn):
    _, files = drawn
    one, other = (files[f"001_{copy}_ünusual-name-3.png"] for copy in (0, 1))
    assert not np.array_equal(one, other)


def test_no_two_images_share_their_noise(tmp_path):
    files = sample(tmp_path, "stage.copies=2", prompts="prompts=[a red circle, a red circle]")
    drawn = [image for name, image in files.items() if name != "grid.png"]
    assert len({image.tobytes() for image in drawn}) == 4


def test_sampler_guidance_weights_and_precision_are_heard(drawn, tmp_path):
    _, files = drawn
    choices = {
        "steps": ["sampler=euler", "sampler.grid.steps=5"],
        "scale": ["guidance=cfg", "guidance.scale=9"],
        "raw": ["stage.weights=raw"],
    }
    for name, options in choices.items():
        assert not same(sample(tmp_path / name, "stage.copies=2", *options), files), name
    loud = [
        "stage.copies=2",
        "guidance=cfg",
        "guidance.scale=200",
    ]  # makes rounding visible in a model of 4 steps
    first, second = (
        sample(tmp_path / "fp32", *loud),
        sample(tmp_path / "bf16", *loud, "trainer.precision=bf16"),
    )
    assert not same(first, second)


def test_the_sampler_of_the_export_is_the_usual_one(drawn, tmp_path):
    _, files = drawn
    same_as_export = ["sampler=euler", "sampler.grid.steps=2", "guidance=cfg", "trainer.precision=fp32"]
    assert same(sample(tmp_path, "stage.copies=2", *same_as_export), files)


def test_a_sampler_without_a_shift_of_its_own_takes_that_of_the_export(drawn, tmp_path):
    exported = {"nodes": {"sampler": {"grid": {"steps": 2, "shift": 4.0}}}}
    assert sampler_node({"sampler": None}, exported) == exported["nodes"]["sampler"]
    own = {"_target_": "Own", "grid": {"steps": 5, "shift": None}}
    assert sampler_node({"sampler": own}, exported) == {"_target_": "Own", "grid": {"steps": 5, "shift": 4.0}}
    assert sampler_node({"sampler": own | {"grid": {"shift": 2}}}, exported)["grid"] == {"shift": 2}
    assert sampler_node({"sampler": {"grid": {"last": 0.1}}}, exported) == {"grid": {"last": 0.1}}
    _, files = drawn
    unshifted = ["sampler=euler", "sampler.grid.steps=2", "sampler.grid.shift=1"]
    assert not same(sample(tmp_path, "stage.copies=2", *unshifted), files)


def test_the_judge_speaks_about_prompts_that_it_understands(drawn):
    from t2ilab.data import scenes

    texts = ["a red circle", "the meaning of life"]
    wanted = scenes.parse(texts[0])
    assert wanted is not None
    black = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    first, second = verdicts(texts, 2, black).splitlines()
    assert first == "a red circle: 0 of 2 show it"
    assert second == "the meaning of life: outside the grammar of the synthetic data set, not judged"


def test_the_judge_is_silent_about_a_model_of_other_images(tmp_path, capsys):
    export = shutil.copytree(finished_run() / "export", tmp_path / "export")
    said = {}
    for target in ("t2ilab.data.sets.Scenes", "t2ilab.data.sets.Folder"):
        manifest = json.loads((export / MANIFEST).read_text())
        manifest["data"] = {"_target_": target}
        (export / MANIFEST).write_text(json.dumps(manifest))
        command("stage=sample", f"init_from={export}", PROMPTS, run_dir=tmp_path / target)
        said[target.rpartition(".")[2]] = capsys.readouterr().out
    assert "4 show it" in said["Scenes"] and "outside the grammar" in said["Scenes"]
    assert "8 images in" in said["Folder"]
    assert "show it" not in said["Folder"] and "synthetic" not in said["Folder"]


def test_an_unfinished_run_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="an unfinished one is measured and exported by its own command"):
        command("stage=sample", f"init_from={tmp_path / 'run'}", PROMPTS, run_dir=tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"accelerator": "tpu"}, {"devices": 2}, {"precision": "fp16"}, {"threads": -1}]
)
def test_the_device_options_are_checked(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"trainer.{name} must"):
        Device(**options)


def test_images_of_another_shape_are_drawn_on_request(tmp_path, capsys):
    files = sample(tmp_path / "wide", "stage.copies=1", "stage.width=64", "stage.height=48")
    assert {p.shape for name, p in files.items() if name != "grid.png"} == {(48, 64, 3)}
    assert "not judged" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"stage\.width=33 must be a multiple of 8, one token of this model"):
        sample(tmp_path / "odd", "stage.width=33")
    with pytest.raises(ValueError, match=r"stage\.height must be at least 1"):
        sample(tmp_path / "none", "stage.height=-8")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_drawn_before_a_signal_is_kept(drawn, tmp_path, monkeypatch, number, status):
    batches = TextToImage.batches

    def interrupted(self, *arguments, **options):
        yield next(batches(self, *arguments, **options))
        raise Stopped(number)

    monkeypatch.setattr(TextToImage, "batches", interrupted)
    with pytest.raises(Interrupted, match=r"stopped, 3 of 4 images are kept in .*samples") as caught:
        sample(tmp_path, "stage.copies=2", "stage.batch_size=3")
    assert caught.value.status == status
    _, whole = drawn
    kept = read_images(tmp_path)
    assert list(kept) == list(whole)[:3]


def test_a_negative_prompt_takes_the_place_of_the_empty_text(tmp_path):
    same_as_empty = sample(tmp_path / "empty", "stage.copies=2", 'stage.negative_prompts=[""]')
    assert same(same_as_empty, sample(tmp_path / "none", "stage.copies=2"))
    other = sample(tmp_path / "other", "stage.copies=2", "stage.negative_prompts=[a blue star]")
    assert not same(other, same_as_empty)
    with pytest.raises(
        ValueError, match=r"stage\.negative_prompts must be one text or one for each of \d prompts"
    ):
        sample(tmp_path / "many", "stage.negative_prompts=[a,b,c,d,e]")
    with pytest.raises(ValueError, match=r"choose guidance=cfg"):
        sample(tmp_path / "unguided", "guidance=none", "stage.negative_prompts=[a]")
