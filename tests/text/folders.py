"""Small random text encoders with tokenizers, written as transformers writes them."""

import torch

WORDS = "a red circle above blue star"
CLIP_SIZES = {"intermediate_size": 32, "max_position_embeddings": 12, "num_hidden_layers": 3}
MARKS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def save_tokenizer(folder, *, length=None, pad="<pad>"):
    """Words of WORDS between <s> and </s>; `pad` is what fills up."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks = ["<pad>", "<unk>", "<s>", "</s>"]
    rust = Tokenizer(models.WordLevel(unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=marks))
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    limit = {} if length is None else {"model_max_length": length}
    PreTrainedTokenizerFast(tokenizer_object=rust, pad_token=pad, unk_token="<unk>", **limit).save_pretrained(
        folder
    )


def save_clip(folder, *, width=16, projection=8, projected=True, **tokenizer):
    """A CLIP's text tower of three layers and 12 places."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=width,
        num_attention_heads=2,
        projection_dim=projection,
        **CLIP_SIZES,
        **MARKS,
    )
    (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).save_pretrained(folder)
    save_tokenizer(folder, **tokenizer)
    return str(folder)


def save_t5(folder, *, width=16, **tokenizer):
    """A T5's encoder of two layers."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=20, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    save_tokenizer(folder, **tokenizer)
    return str(folder)


def filled(folder, place):
    """A new folder with random weights that depend on its name."""
    torch.manual_seed(sum(map(ord, place)))
    return folder.mktemp(place)
