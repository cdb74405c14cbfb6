"""CLIP and T5 of transformers from small folders made here: layers, masks, refusals."""

import pytest
import torch

from t2ilab.export.denoiser import load
from t2ilab.text.pretrained import CLIPText, T5Text
from tests.text import folders
from tests.tiny import command

pytestmark = pytest.mark.slow  # importing transformers takes seconds


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return folders.save_clip(folders.filled(tmp_path_factory, "clip"))


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return folders.save_t5(folders.filled(tmp_path_factory, "t5"))


@torch.no_grad()
def test_clip_gives_the_layer_asked_for_and_the_projected_end_token(clip_folder):
    text = CLIPText(path=clip_folder, tokenizer_path=None, dim=16, pooled_dim=8, length=12, skip=1)
    cond = text(["a red circle", ""])
    assert cond.mask.sum(1).tolist() == [5, 2]
    ids = text.tokenizer("a red circle", return_tensors="pt")["input_ids"]
    out = text.network(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(cond.tokens[:1, :5], out.hidden_states[-2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cond.pooled[:1], out.text_embeds, atol=1e-5, rtol=1e-5)
    assert not cond.tokens[0, 5:].any()
    text.skip = 0
    torch.testing.assert_close(
        text(["a red circle"]).tokens[:, :5], out.last_hidden_state, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_clip_without_pooled_needs_no_projection(clip_folder):
    text = CLIPText(path=clip_folder, tokenizer_path=clip_folder, dim=16, pooled_dim=None, length=8)
    assert text(["a red circle"]).pooled is None


@torch.no_grad()
def test_t5_tokens_do_not_depend_on_the_length_they_are_padded_to(t5_folder):
    short, long = (T5Text(path=t5_folder, tokenizer_path=None, dim=16, length=n) for n in (6, 11))
    one, two = short(["a red circle"]), long(["a red circle"])
    assert one.pooled is None and two.tokens.shape == (1, 11, 16)
    torch.testing.assert_close(one.tokens[:, :5], two.tokens[:, :5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long.null(2).tokens, long(["", ""]).tokens)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_padding_that_counts_is_part_of_the_condition_and_masked_padding_is_not(kind, clip_folder, t5_folder):
    def condition(padding):
        if kind == "clip":
            text = CLIPText(
                path=clip_folder, tokenizer_path=None, dim=16, pooled_dim=8, length=9, padding=padding
            )
        else:
            text = T5Text(path=t5_folder, tokenizer_path=None, dim=16, length=9, padding=padding)
        return text(["a red circle", ""])

    counts, masked = condition("counts"), condition("masked")
    assert counts.mask.all() and masked.mask.sum(1).tolist() == [5, 2]
    assert counts.tokens.abs().sum(-1).all() and not masked.tokens[~masked.mask].any()
    words = torch.allclose(counts.tokens[:, :2], masked.tokens[:, :2], atol=1e-5)
    assert words == (kind == "clip"), "a CLIP reads from left to right, a T5 attends to the padding"


@torch.no_grad()
def test_the_null_condition_is_the_empty_prompt_or_zeros(clip_folder):
    sizes = {"path": clip_folder, "tokenizer_path": None, "dim": 16, "pooled_dim": 8, "length": 9}
    empty, zeros = (CLIPText(**sizes, padding="masked", null=null) for null in ("empty", "zeros"))
    torch.testing.assert_close(empty.null(2).tokens, empty(["", ""]).tokens)
    null = zeros.null(2)
    assert null.tokens.shape == (2, 9, 16) and not null.tokens.any() and not null.pooled.any()
    assert null.mask.sum(1).tolist() == [2, 2]
    torch.testing.assert_close(zeros([""]).pooled, empty([""]).pooled)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_learned_null_text_trains_and_is_exported_with_the_network(t5_folder, tmp_path, optimizer):
    sizes = ["dim=16", "length=6", "pooled_dim=null", f"path={t5_folder}"]
    command(
        *("debug=tiny", "conditioner=t5", "conditioner.null=learned", f"optimizer={optimizer}"),
        *(f"conditioner.{size}" for size in sizes),
        *(
            "trainer.max_steps=3",
            "checkpoint.every=3",
            "stage.preview_every=3",
            "stage.condition_dropout=0.5",
        ),
        run_dir=tmp_path / "run",
    )
    artifact = load(tmp_path / "run")
    learned = artifact.denoiser.backbone.null_embed.tokens
    raw = load(tmp_path / "run", weights="raw").denoiser.backbone.null_embed.tokens
    assert learned.shape == (1, 6, 16) and not torch.equal(raw, learned), "averaged weights lag behind"
    before = artifact.generate.latents(["a red circle"], seed=0, rows=[0])
    with torch.no_grad():
        learned.normal_()
    assert not torch.equal(artifact.generate.latents(["a red circle"], seed=0, rows=[0]), before)


def test_prompts_that_lose_their_end_are_counted_whatever_padding_means(clip_folder):
    prompts = ["a red circle", "a red circle above a blue star", ""]
    for padding in ("counts", "masked"):
        text = CLIPText(
            path=clip_folder, tokenizer_path=None, dim=16, pooled_dim=8, length=5, padding=padding
        )
        assert text.cut(prompts) == 1, "the first one just fits"


def test_unfit_folders_and_sizes_are_refused_by_name(clip_folder, t5_folder, tmp_path):
    with pytest.raises(ValueError, match=r"conditioner\.path=<folder> is needed"):
        T5Text(path=None, tokenizer_path=None, dim=16, length=6)
    with pytest.raises(ValueError, match="holds no T5EncoderModel"):
        T5Text(path=str(tmp_path), tokenizer_path=None, dim=16, length=6)
    with pytest.raises(ValueError, match="lacks weights of CLIPTextModelWithProjection"):
        CLIPText(path=t5_folder, tokenizer_path=None, dim=16, pooled_dim=8, length=6)
    with pytest.raises(ValueError, match=r"conditioner\.dim=17, found 16.*conditioner\.length=99, found 12"):
        CLIPText(path=clip_folder, tokenizer_path=None, dim=17, pooled_dim=8, length=99)
    for option, message in (("padding", "counts, masked"), ("null", "empty, zeros, learned")):
        with pytest.raises(ValueError, match=rf"conditioner\.{option} must be one of {message}, got 'none'"):
            T5Text(path=t5_folder, tokenizer_path=None, dim=16, length=6, **{option: "none"})
    with pytest.raises(ValueError, match=r"conditioner\.tokenizer_path"):
        T5Text(path=t5_folder, tokenizer_path=str(tmp_path), dim=16, length=6)
