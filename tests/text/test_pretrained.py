"""CLIP and T5 of transformers from small folders made here: layers, masks, refusals."""

import pytest
import torch

from t2ilab.text.pretrained import CLIPText, T5Text

pytestmark = pytest.mark.slow  # importing transformers takes seconds


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks = ["<pad>", "<unk>", "<s>", "</s>"]
    rust = Tokenizer(models.WordLevel(unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.train_from_iterator(
        ["a red circle above blue star"], trainers.WordLevelTrainer(special_tokens=marks)
    )
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=rust, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder
    )


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 8, "max_position_embeddings": 12}
    config = CLIPTextConfig(
        vocab_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        **sizes,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    T5EncoderModel(
        T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


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


def test_unfit_folders_and_sizes_are_refused_by_name(clip_folder, t5_folder, tmp_path):
    with pytest.raises(ValueError, match=r"conditioner\.path=<folder> is needed"):
        T5Text(path=None, tokenizer_path=None, dim=16, length=6)
    with pytest.raises(ValueError, match="holds no T5EncoderModel"):
        T5Text(path=str(tmp_path), tokenizer_path=None, dim=16, length=6)
    with pytest.raises(ValueError, match="lacks weights of CLIPTextModelWithProjection"):
        CLIPText(path=t5_folder, tokenizer_path=None, dim=16, pooled_dim=8, length=6)
    with pytest.raises(ValueError, match=r"conditioner\.dim=17, found 16.*conditioner\.length=99, found 12"):
        CLIPText(path=clip_folder, tokenizer_path=None, dim=17, pooled_dim=8, length=99)
    with pytest.raises(ValueError, match=r"conditioner\.tokenizer_path"):
        T5Text(path=t5_folder, tokenizer_path=str(tmp_path), dim=16, length=6)
