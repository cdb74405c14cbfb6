"""Conditions are the prompt embeddings that diffusers' own pipelines make: short, long, empty and no prompts."""

import pytest
import torch

from t2ilab.config.composition import compose
from t2ilab.text.pretrained import CLIPText, T5Text
from t2ilab.text.several import Several
from tests.text import folders

pytestmark = pytest.mark.slow  # importing transformers and diffusers takes seconds

PROMPTS = ["a red circle", "A Red circle above a blue STAR " * 5, ""]  # short, cut, empty
LENGTH = 12  # of CLIP
T5_LENGTH = 9


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Encoders with unlike sizes; as published, the first CLIP pads with its end token and the second does not."""
    made = {
        "clip_l": folders.save_clip(folders.filled(tmp_path_factory, "clip_l"), length=LENGTH, pad="</s>"),
        "clip_g": folders.save_clip(
            folders.filled(tmp_path_factory, "clip_g"), width=24, projection=20, length=LENGTH
        ),
        "plain": folders.save_clip(
            folders.filled(tmp_path_factory, "plain"), projected=False, length=LENGTH, pad="</s>"
        ),
        "t5": folders.save_t5(folders.filled(tmp_path_factory, "t5"), width=48, length=T5_LENGTH),
    }
    return made


def options(preset, name=None):
    """What a preset says beside paths and sizes."""
    node = compose([f"conditioner={preset}"])["conditioner"]
    node = node if name is None else node["encoders"][name]
    return {
        key: value
        for key, value in node.items()
        if key in ("skip", "project", "padding", "null", "lowercase")
    }


def clip(paths, preset, *, name=None, key=None, width=16, pooled=None):
    given = options(preset, name)
    return CLIPText(
        path=paths[key or name], tokenizer_path=None, dim=width, pooled_dim=pooled, length=LENGTH, **given
    )


def t5(paths, preset, *, name=None):
    return T5Text(path=paths["t5"], tokenizer_path=None, dim=48, length=T5_LENGTH, **options(preset, name))


def several(paths, preset, encoders, *, dim, pooled_dim, length):
    node = compose([f"conditioner={preset}"])["conditioner"]
    shape = {"tokens": node["tokens"], "pooled": node["pooled"], "null": node["null"]}
    return Several(encoders=encoders, dim=dim, pooled_dim=pooled_dim, length=length, **shape)


def pipeline(name, **parts):
    """diffusers' own pipeline around our encoders, with nothing that draws."""
    import diffusers

    kind = getattr(diffusers, name)
    made = kind.__new__(kind)
    diffusers.DiffusionPipeline.__init__(made)
    made.register_modules(**parts)
    for key, value in {"tokenizer_max_length": LENGTH}.items():
        setattr(made, key, value)
    return made


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_stable_diffusion_15(paths):
    ours = clip(paths, "sd15", key="plain")
    theirs = pipeline(
        "StableDiffusionPipeline", text_encoder=ours.network, tokenizer=ours.tokenizer, unet=None
    )
    expected, nothing = theirs.encode_prompt(PROMPTS, "cpu", 1, True)
    found = ours(PROMPTS)
    same(found.tokens, expected)
    same(ours.null(3).tokens, nothing)
    assert found.mask.all() and found.pooled is None


@torch.no_grad()
def test_sdxl_with_zeros_for_no_prompt_and_an_encoding_for_the_empty_one(paths):
    one = clip(paths, "sdxl", name="clip_l", key="plain")
    two = clip(paths, "sdxl", name="clip_g", width=24, pooled=20)
    ours = several(paths, "sdxl", {"clip_l": one, "clip_g": two}, dim=40, pooled_dim=20, length=LENGTH)
    theirs = pipeline(
        "StableDiffusionXLPipeline",
        text_encoder=one.network,
        text_encoder_2=two.network,
        tokenizer=one.tokenizer,
        tokenizer_2=two.tokenizer,
        unet=None,
    )
    theirs.register_to_config(force_zeros_for_empty_prompt=True)
    expected, nothing, pooled, pooled_nothing = theirs.encode_prompt(PROMPTS, device="cpu")
    found, null = ours(PROMPTS), ours.null(3)
    same(found.tokens, expected)
    same(found.pooled, pooled)
    assert found.mask.all() and found.tokens[2].any()
    assert torch.equal(null.tokens, nothing) and torch.equal(null.pooled, pooled_nothing)
    assert not null.tokens.any() and null.mask.all()


@torch.no_grad()
def test_stable_diffusion_3(paths):
    one = clip(paths, "sd3", name="clip_l", pooled=8)
    two = clip(paths, "sd3", name="clip_g", width=24, pooled=20)
    three = t5(paths, "sd3", name="t5")
    encoders = {"clip_l": one, "clip_g": two, "t5": three}
    ours = several(paths, "sd3", encoders, dim=48, pooled_dim=28, length=LENGTH + T5_LENGTH)
    theirs = pipeline(
        "StableDiffusion3Pipeline",
        text_encoder=one.network,
        text_encoder_2=two.network,
        text_encoder_3=three.network,
        tokenizer=one.tokenizer,
        tokenizer_2=two.tokenizer,
        tokenizer_3=three.tokenizer,
        transformer=None,
    )
    made = theirs.encode_prompt(PROMPTS, None, None, device="cpu", max_sequence_length=T5_LENGTH)
    expected, nothing, pooled, pooled_nothing = made
    found, null = ours(PROMPTS), ours.null(3)
    same(found.tokens, expected)
    same(found.pooled, pooled)
    same(null.tokens, nothing)
    same(null.pooled, pooled_nothing)
    assert found.mask.all()


@torch.no_grad()
def test_flux(paths):
    one = clip(paths, "flux", name="clip_l", key="plain", pooled=16)
    two = t5(paths, "flux", name="t5")
    ours = several(paths, "flux", {"clip_l": one, "t5": two}, dim=48, pooled_dim=16, length=T5_LENGTH)
    theirs = pipeline(
        "FluxPipeline",
        text_encoder=one.network,
        text_encoder_2=two.network,
        tokenizer=one.tokenizer,
        tokenizer_2=two.tokenizer,
        transformer=None,
    )
    expected, pooled, _ = theirs.encode_prompt(PROMPTS, None, device="cpu", max_sequence_length=T5_LENGTH)
    found = ours(PROMPTS)
    same(found.tokens, expected)
    same(found.pooled, pooled)
    assert found.mask.all()


@torch.no_grad()
def test_pixart_sigma_where_its_mask_lets_a_token_count(paths):
    ours = t5(paths, "pixart")
    theirs = pipeline(
        "PixArtSigmaPipeline", text_encoder=ours.network, tokenizer=ours.tokenizer, transformer=None
    )
    made = theirs.encode_prompt(PROMPTS, device="cpu", max_sequence_length=T5_LENGTH)
    for found, tokens, mask in ((ours(PROMPTS), *made[:2]), (ours.null(3), *made[2:])):
        assert torch.equal(found.mask, mask.bool())
        same(found.tokens[found.mask], tokens[found.mask])
        assert not found.tokens[~found.mask].any()
    assert ours(PROMPTS).mask.sum(1).tolist() == [5, 9, 2]
    assert not torch.equal(
        ours([PROMPTS[1].lower()]).tokens, t5(paths, "sd3", name="t5")(PROMPTS[1:2]).tokens
    )
