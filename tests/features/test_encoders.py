"""Encoders of clean images: what they are given, what they give, what they refuse."""

import pytest
import torch

from t2ilab.features.embedded import EmbeddedCLIP
from t2ilab.features.vit import CLIP, HuggingFaceViT, OpenCLIP


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A tiny DINOv2 with random weights in a folder."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(image_size=28, patch_size=7, **sizes))
    folder = tmp_path_factory.mktemp("dino")
    model.save_pretrained(folder)
    return folder, model.eval()


def test_the_built_in_clip_gives_one_vector_per_patch_of_any_size_of_image():
    encoder = EmbeddedCLIP(path="assets/encoder", dim=96)
    for size in (64, 32):
        assert encoder(torch.zeros(2, 3, size, size)).shape == (2, 64, 96)


def test_a_width_other_than_the_promised_one_is_refused(dino):
    with pytest.raises(ValueError, match=r"encoder\.dim=96"):
        EmbeddedCLIP(path="assets/encoder", dim=64)
    with pytest.raises(ValueError, match=r"encoder\.dim=16"):
        HuggingFaceViT(path=str(dino[0]), dim=64, grid=4, patch=7, statistics="imagenet")


def test_a_local_dinov2_sees_normalised_images_and_its_class_token_is_left_out(dino):
    folder, model = dino
    encoder = HuggingFaceViT(path=str(folder), dim=16, grid=4, patch=7, statistics="imagenet")
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), model(pixels).last_hidden_state[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize(("family", "registers"), [("DINOv3ViT", 4), ("Dinov2WithRegisters", 3)])
@pytest.mark.parametrize("grid", [4, 3])
def test_register_tokens_are_left_out_as_the_class_token_is(family, registers, grid, tmp_path):
    """4 x 4 patches are those of the model's own size of image, 3 x 3 those of a smaller one."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"image_size": 28, "patch_size": 7, "num_register_tokens": registers}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}Model")(config).eval()
    for parameter in model.parameters():  # of which many start at zero
        parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    encoder = HuggingFaceViT(path=str(tmp_path), dim=16, grid=grid, patch=7, statistics="imagenet")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = model(encoder.pixels(images)).last_hidden_state
    found = encoder(images)
    assert tokens.shape == (2, 1 + registers + grid**2, 16) and found.shape == (2, grid**2, 16)
    torch.testing.assert_close(found, tokens[:, 1 + registers :])
    torch.testing.assert_close(encoder.summary(images), tokens[:, 0])


def test_images_are_resized_to_the_wanted_grid(dino):
    encoder = HuggingFaceViT(path=str(dino[0]), dim=16, grid=3, patch=7, statistics="clip")
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 9, 16)


@pytest.mark.parametrize("edge", [32, 64])
def test_images_are_resized_as_in_repa_normalised_first_and_without_antialiasing(dino, edge):
    encoder = HuggingFaceViT(path=str(dino[0]), dim=16, grid=4, patch=7, statistics="imagenet")
    images = torch.randint(0, 256, (2, 3, edge, edge))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images / 255 - mean[:, None, None]) / std[:, None, None]
    wanted = torch.nn.functional.interpolate(normal, 28, mode="bicubic")
    torch.testing.assert_close(encoder.pixels(images / 127.5 - 1), wanted, atol=1e-5, rtol=1e-5)
    smooth = HuggingFaceViT(path=str(dino[0]), dim=16, grid=4, patch=7, statistics="imagenet", antialias=True)
    assert smooth.pixels(images / 127.5 - 1).std() < wanted.std()


def test_a_wrong_patch_size_and_unknown_statistics_are_refused(dino):
    for patch in (3, 14):  # too few patches, and more than the grid has
        with pytest.raises(ValueError, match=r"encoder\.patch=7"):
            HuggingFaceViT(path=str(dino[0]), dim=16, grid=4, patch=patch, statistics="clip")
    with pytest.raises(ValueError, match=r"encoder\.statistics"):
        HuggingFaceViT(path=str(dino[0]), dim=16, grid=4, patch=7, statistics="mean")


def test_one_that_leaves_patches_out_is_refused(tmp_path):
    from transformers import ViTMAEConfig, ViTMAEModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTMAEModel(ViTMAEConfig(image_size=28, patch_size=7, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ViTMAEModel leaves patches out"):
        HuggingFaceViT(path=str(tmp_path), dim=16, grid=4, patch=7, statistics="imagenet")


@torch.no_grad()
def test_the_summary_is_the_class_token_or_else_the_mean(dino):
    folder, model = dino
    encoder = HuggingFaceViT(path=str(folder), dim=16, grid=4, patch=7, statistics="imagenet")
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    pixels = encoder.pixels(images)
    torch.testing.assert_close(encoder.summary(images), model(pixels).last_hidden_state[:, 0])
    embedded = EmbeddedCLIP(path="assets/encoder", dim=96)
    shown = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(
        embedded.summary(shown) @ embedded.towers.clip.visual.proj,
        embedded.towers.encode_image(shown).pooled,
    )


def test_an_absent_folder_is_named():
    with pytest.raises(ValueError, match=r"encoder\.path"):
        HuggingFaceViT(path="/nowhere", dim=16, grid=4, patch=7, statistics="clip")


def test_an_open_clip_tower_gives_its_patches(tmp_path):
    import json

    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 4, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1},
    }
    (tmp_path / "tiny-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    sizes = {"name": "tiny-vit", "dim": 16, "grid": 2, "patch": 8}
    with pytest.raises(ValueError, match=r"encoder\.path=<folder> is needed"):
        OpenCLIP(path=None, **sizes)
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"encoder\.path=.*wanted one file of weights.*found none"):
        OpenCLIP(path=str(folder), **sizes)
    torch.manual_seed(1)
    model = open_clip.create_model("tiny-vit")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    encoder = OpenCLIP(path=str(folder), **sizes).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    found = encoder(images)
    assert found.shape == (2, 4, 16)
    whole = encoder.summary(images) @ model.visual.proj  # of the tower in training with texts
    torch.testing.assert_close(whole, model.eval().encode_image(encoder.pixels(images)))
    assert encoder.mean.flatten().tolist() == pytest.approx(list(CLIP[0]))
    with pytest.raises(
        ValueError, match=r"gave 4 patches of an image of 16 px, expected 1: .*encoder\.patch"
    ):
        OpenCLIP(path=str(folder), **sizes | {"grid": 1, "patch": 16})(images)
