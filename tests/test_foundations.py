"""The networks that come with the package: unchanged, small enough, and as good as they are said to be."""

import json

import pytest
import torch

from t2ilab import foundations
from t2ilab.config import composition
from t2ilab.data import scenes
from t2ilab.data.scenes.questions import THING_CHOICES, WHOLE_CHOICES, answers
from t2ilab.latents.kl import PretrainedKL
from t2ilab.stages.autoencoder import passed
from t2ilab.text.clip import EmbeddedCLIP
from t2ilab.training.latent_rows import to_signed


@pytest.fixture(scope="module")
def images():
    return scenes.SceneSource("foundation", "val", size=400).images(range(400))


@pytest.mark.parametrize("kind", ["autoencoder", "encoder"])
def test_files_are_those_of_the_recorded_recipe(kind):
    record = foundations.verify(kind)
    assert record["steps"] > 0 and record["config"]["seed"] == 0 and record["evaluation"]


def values(config, path=""):
    """Option to value, without classes, which may move, and what the machine decided."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from values(value, f"{path}{key}.")
        elif value is not None and key not in ("_target_", "threads", "precision"):
            yield f"{path}{key}", value


@pytest.mark.parametrize(
    ("kind", "recipe"), [("autoencoder", "assets_decoder"), ("encoder", "assets_encoder")]
)
def test_the_record_says_what_the_recipe_of_make_assets_says(kind, recipe):
    recorded = dict(values(foundations.verify(kind)["config"]))
    assert {"optimizer.lr", "data.size", "trainer.max_steps"} < recorded.keys()
    now = dict(values(composition.compose([f"recipe={recipe}"])))
    assert {key: now.get(key) for key in recorded} == recorded


def test_the_built_in_networks_weigh_at_most_four_mebibytes():
    assert (
        sum(path.stat().st_size for path in foundations.ASSETS.rglob("*") if path.is_file())
        <= foundations.LIMIT
    )


def test_a_changed_weight_file_is_noticed(tmp_path):
    import shutil

    copy = tmp_path / "assets"
    shutil.copytree(foundations.ASSETS, copy)
    weights = copy / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        foundations.verify("encoder", copy)


def test_reconstructions_keep_what_the_judge_reads(images):
    autoencoder = PretrainedKL(path="assets/autoencoder", channels=5, factor=8)
    rebuilt = torch.cat([passed(autoencoder, part)[1] for part in images.split(128)])
    truths = [scenes.sample_scene("foundation", "val", index, 0) for index in range(400)]
    scores = scenes.score_batch(truths, rebuilt)
    error = (rebuilt.double() - images.double()).square().flatten(1).mean(1)
    psnr = 10 * torch.log10(255**2 / error).mean()
    assert sum(score.passed for score in scores) / 400 >= 0.99
    assert psnr >= 34


def test_latents_have_unit_variance(images):
    autoencoder = PretrainedKL(path="assets/autoencoder", channels=5, factor=8)
    with torch.no_grad():
        latents = autoencoder.encode(to_signed(images))
    assert abs(float(latents.std()) - 1) < 0.05 and abs(float(latents.mean())) < 0.05


def test_recorded_numbers_meet_what_is_asked_of_the_built_in_networks():
    assert foundations.verify("autoencoder")["evaluation"]["psnr"] >= 34
    encoder = foundations.verify("encoder")["evaluation"]
    attributes = [name for name in encoder if name.startswith("tokens_") and name != "tokens_style"]
    assert len(attributes) == 10
    assert min(encoder[name] for name in attributes) >= 0.95, json.dumps(encoder)
    assert encoder["things_read"] >= 0.97


@torch.no_grad()
def test_the_text_tower_says_which_color_belongs_to_which_thing_and_where_it_lies():
    conditioner = EmbeddedCLIP(path="assets/encoder", dim=96, pooled_dim=179, length=5, words=False)
    texts = ["a red circle above a blue star", "a blue circle above a red star", "a circle below a star"]
    condition = conditioner([*texts, ""])
    assert condition.mask.tolist() == [[True] * 3 + [False] * 2] * 3 + [[True] + [False] * 4]
    for text, tokens in zip(texts, condition.tokens[:, 1:3], strict=False):
        for thing, right in zip(tokens, answers(text)[0], strict=False):
            parts = thing[5 + sum(WHOLE_CHOICES) :][: sum(THING_CHOICES)].split(list(THING_CHOICES))
            assert [int(part.argmax()) for part in parts] == list(right), text
