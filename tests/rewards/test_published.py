"""Published rewards from local folders: our scores are those of the libraries that the weights are written for."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from t2ilab.build import build
from t2ilab.config.composition import compose
from t2ilab.rewards.image_reward import LENGTH, MEAN, STD, ImageReward
from t2ilab.rewards.towers import open_towers
from tests.text.folders import CLIP_SIZES, MARKS, save_tokenizer

PROMPTS = ["a red circle", "blue star above a circle", "star"]
MEANS, STDS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def images(size):
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def normalised(x):
    return (x - torch.tensor(MEANS).view(3, 1, 1)) / torch.tensor(STDS).view(3, 1, 1)


def reward(choice, folder, *options):
    return build(compose(["stage=pairs", f"reward={choice}", f"reward.path={folder}", *options])["reward"])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny random CLIPModel of transformers with its tokenizer, as PickScore comes."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {"vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2, **CLIP_SIZES, **MARKS}
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = CLIPModel(config).eval()
    nn.init.constant_(model.logit_scale, 4.6051702)  # ln 100
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder, model


def test_pick_score_is_the_logit_of_transformers_own_forward(clip_folder):
    from transformers import AutoTokenizer

    folder, model = clip_folder
    tokens = AutoTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(input_ids=tokens.input_ids, pixel_values=normalised(images(16)))
    found = reward("pick_score", folder)(images(16), PROMPTS)
    assert torch.allclose(found, out.logits_per_image.diagonal(), atol=1e-3)
    assert found.unique().numel() == 3


@pytest.fixture
def open_clip_folder(tmp_path, monkeypatch):
    """A tiny random model of open_clip, as HPS v2 comes."""
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-for-tests", config)
    torch.manual_seed(1)
    model = open_clip.create_model("tiny-for-tests").eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "HPS_v2.safetensors")
    return tmp_path, model


@pytest.mark.parametrize("layers", [None, 1])
def test_every_weight_that_learns_is_one_that_the_vectors_depend_on(clip_folder, open_clip_folder, layers):
    """Several processes wait for the gradient of each; of all others there would be none."""
    for path, name in (
        ("assets/encoder", None),
        (str(clip_folder[0]), None),
        (str(open_clip_folder[0]), "tiny-for-tests"),
    ):
        towers = open_towers(path, name)
        towers.train_last(layers)
        learning = {k: p for k, p in towers.named_parameters() if p.requires_grad}
        total = towers.images(images(16)).sum() + towers.texts(towers.tokens(PROMPTS)).sum()
        found = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
        assert learning and [k for k, one in zip(learning, found, strict=True) if one is None] == []


def test_hps_is_the_cosine_of_open_clips_own_forward(open_clip_folder):
    folder, model = open_clip_folder
    tokens = open_clip.get_tokenizer("tiny-for-tests")(PROMPTS)
    with torch.no_grad():
        seen, told, _ = model(normalised(images(16)), tokens)
    found = reward("hps", folder, "reward.name=tiny-for-tests")(images(16), PROMPTS)
    assert torch.allclose(found, (seen * told).sum(1), atol=1e-5) and found.unique().numel() == 3


def test_a_clip_that_cannot_be_read_is_refused_with_its_options(clip_folder, open_clip_folder, tmp_path):
    with pytest.raises(ValueError, match=r"reward\.name=ViT-H14 is no architecture of open_clip.* ViT-H-14"):
        open_towers(str(open_clip_folder[0]), "ViT-H14")
    other = tmp_path / "other"
    other.mkdir()
    save_file({"weight": torch.zeros(1)}, other / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.path: .* does not hold weights of model\.name=tiny-for-tests"
    ):
        open_towers(str(other), "tiny-for-tests", option="model.path")
    (other / "config.json").write_text((clip_folder[0] / "config.json").read_text())
    with pytest.raises(ValueError, match=r"reward\.path=.* holds no whole CLIPModel with its tokenizer"):
        open_towers(str(other))
    whole = load_file(clip_folder[0] / "model.safetensors")
    for file in clip_folder[0].glob("token*"):
        (other / file.name).write_bytes(file.read_bytes())
    whole.pop("text_projection.weight")
    save_file(whole, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of a CLIPModel: \['text_projection\.weight'\]"):
        open_towers(str(other))


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A tiny random ImageReward as its authors write it, and transformers' networks with the same weights."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    torch.manual_seed(2)
    sizes = {"vocab_size": 14, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64, "layer_norm_eps": 1e-12}
    seeing = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    seeing |= {"image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6}
    vision = BlipVisionModel(BlipVisionConfig(**seeing))
    marks = {"pad_token_id": 0, "bos_token_id": None, "sep_token_id": None, "eos_token_id": None}
    text = BlipTextModel(BlipTextConfig(encoder_hidden_size=64, **sizes, **marks), add_pooling_layer=False)
    head = nn.Sequential(nn.Linear(32, 8), nn.Dropout(0.2), nn.Linear(8, 4), nn.Linear(4, 1)).eval()
    for network in (vision.eval(), text.eval()):
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    folder = tmp_path_factory.mktemp("blip")
    theirs = {"embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed"}
    theirs |= {"embeddings.patch_embedding.weight": "patch_embed.proj.weight"}
    theirs |= {"embeddings.patch_embedding.bias": "patch_embed.proj.bias"}
    parts = {"self_attn.qkv": "attn.qkv", "self_attn.projection": "attn.proj", "mlp.fc1": "mlp.fc1"}
    parts |= {"mlp.fc2": "mlp.fc2", "layer_norm1": "norm1", "layer_norm2": "norm2"}
    for kind in ("weight", "bias"):
        theirs[f"post_layernorm.{kind}"] = f"norm.{kind}"
        for layer in (0, 1):
            for new, old in parts.items():
                theirs[f"encoder.layers.{layer}.{new}.{kind}"] = f"blocks.{layer}.{old}.{kind}"
    state = {f"blip.visual_encoder.{theirs[name]}": value for name, value in vision.state_dict().items()}
    state |= {f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()}
    state |= {f"mlp.layers.{name}": value for name, value in head.state_dict().items()}
    unused = {"blip.text_encoder.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(state | unused | {"blip.vision_proj.weight": torch.zeros(1)}, folder / "ImageReward.pt")
    written = sizes | {"architectures": ["BertModel"], "add_type_embeddings": False}
    (folder / "med_config.json").write_text(json.dumps(written))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "blue", "star", "above"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder, vision, text, head


@torch.no_grad()
def test_image_reward_is_the_head_on_the_first_token_of_transformers_blip(blip):
    folder, vision, text, head = blip
    own = reward("image_reward", folder)
    tokens = own.tokenizer(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    assert tokens.input_ids[0, :5].tolist() == [2, 5, 6, 7, 3]
    seen = vision(normalised(images(32))).last_hidden_state
    said = text(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen
    ).last_hidden_state[:, 0]
    expected = (head(said)[:, 0] - MEAN) / STD
    found = own(images(32), PROMPTS)
    assert torch.allclose(found, expected, atol=1e-5) and found.unique().numel() == 3
    assert not torch.allclose(own(images(32).flip(0), PROMPTS), found), "it looks at the image"
    assert not torch.allclose(own(images(32), PROMPTS[::-1]), found), "and reads the prompt"


def test_image_reward_has_a_gradient_and_wants_all_of_its_files(blip, tmp_path):
    folder, *_ = blip
    x = images(40).requires_grad_()
    ImageReward(path=str(folder))(x, PROMPTS).sum().backward()
    assert x.grad.abs().flatten(1).sum(1).min() > 0
    with pytest.raises(ValueError, match=r"med_config\.json is missing"):
        ImageReward(path=str(tmp_path))
    for name in ("med_config.json", "vocab.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    torch.save({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}, tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"hold no blip\.visual_encoder\.\*"):
        ImageReward(path=str(tmp_path))
    state = torch.load(folder / "ImageReward.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.endswith("pos_embed")}, tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"reward\.path: .* they hold no pos_embed"):
        ImageReward(path=str(tmp_path))
    torch.save(state, tmp_path / "head.pt")
    (tmp_path / "med_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"reward\.path: .*med_config\.json is damaged"):
        ImageReward(path=str(tmp_path))
