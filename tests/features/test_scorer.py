"""The CLIPs that measure: open_clip's own vectors, from a folder, and those of the built-in CLIP."""

import json

import open_clip
import pytest
import torch

from t2ilab.features.scorer import EmbeddedScorer, OpenCLIPScorer
from t2ilab.features.vit import CLIP

CPU = torch.device("cpu")


def tiny_clip(folder, name="tiny-pair"):
    """An open_clip architecture with random weights in `folder`; its name and the network."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    configs = folder / "configs"
    configs.mkdir(parents=True)
    (configs / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(configs)
    torch.manual_seed(1)
    model = open_clip.create_model(name).eval()
    (folder / "weights").mkdir()
    torch.save(model.state_dict(), folder / "weights" / "open_clip_pytorch_model.bin")
    return name, model


def test_a_clip_of_open_clip_gives_its_own_vectors(tmp_path):
    name, model = tiny_clip(tmp_path)
    scorer = OpenCLIPScorer(name=name, path=str(tmp_path / "weights"), device=CPU)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CLIP)
    with torch.no_grad():
        expected = model.encode_image((images / 255 - mean) / std)
        torch.testing.assert_close(scorer.images(images), expected)
        words = ["a red circle", "two cats beside one another and many more words than it can read"]
        torch.testing.assert_close(
            scorer.texts(words), model.encode_text(open_clip.get_tokenizer(name)(words))
        )
    assert scorer.images(torch.zeros(2, 3, 32, 24, dtype=torch.uint8)).shape == (2, 8)
    assert scorer.name == "open_clip's tiny-pair"


def test_more_images_and_texts_than_one_batch_are_the_same(tmp_path, monkeypatch):
    name, _ = tiny_clip(tmp_path)
    scorer = OpenCLIPScorer(name=name, path=str(tmp_path / "weights"), device=CPU)
    images = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    words = [f"word {number}" for number in range(5)]
    whole = scorer.images(images), scorer.texts(words)
    monkeypatch.setattr("t2ilab.features.scorer.ROWS", 2)
    torch.testing.assert_close((scorer.images(images), scorer.texts(words)), whole)


def test_a_folder_without_weights_is_refused_by_the_name_of_its_option(tmp_path):
    with pytest.raises(ValueError, match=r"eval\.scorer\.path=<folder> is needed"):
        OpenCLIPScorer(name="ViT-L-14", path=None, device=CPU)
    with pytest.raises(ValueError, match=r"eval\.scorer\.path=.*wanted one file of weights.*found none"):
        OpenCLIPScorer(name="ViT-L-14", path=str(tmp_path), device=CPU)


def test_the_built_in_clip_gives_the_vectors_of_its_towers():
    scorer = EmbeddedScorer(path="assets/encoder", device=CPU)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            scorer.images(images), scorer.towers.encode_image(images / 127.5 - 1).pooled
        )
        ids, mask = scorer.towers.tokenizer(["a red circle"])
        torch.testing.assert_close(
            scorer.texts(["a red circle"]), scorer.towers.encode_text(ids, mask).pooled
        )
