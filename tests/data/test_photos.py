"""Real photographs, through the example that writes them: see examples/photos.py."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilab.data.decode import fit
from t2ilab.data.folder import FolderSource

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

COLOURFUL = ("astronaut.jpg", "cat.png", "coffee.png", "rocket.jpg", "motorcycle.webp", "places/flower.png")
SCRIPT = Path(__file__).parents[2] / "examples" / "photos.py"


@pytest.fixture(scope="module")
def photos():
    spec = importlib.util.spec_from_file_location("photos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    photos.write(path)
    photos.spoil(path)
    return path


@pytest.fixture(scope="module")
def read(folder, tmp_path_factory):
    """Images and captions by name, and the report, at 64 pixels."""
    cache = str(tmp_path_factory.mktemp("cache"))
    sources = [
        FolderSource(str(folder), 64, split=split, val_share=0.2, cache=cache) for split in ("train", "val")
    ]
    found, captions = {}, {}
    for source in sources:
        images = source.images(range(len(source)))
        for index, name in enumerate(source.paths):
            found[name], captions[name] = images[index], source.captions(index)
    return found, captions, sources[0].report


def error(image, reference):
    wanted = torch.from_numpy(np.array(fit(reference.convert("RGB"), 64, 64))).permute(2, 0, 1)
    return (image.float() - wanted.float()).abs().mean().item()


def test_every_photograph_is_used_with_its_captions(photos, read):
    images, captions, report = read
    assert captions == {name: texts for _, name, _, texts in photos.PHOTOS}
    assert images.keys() == captions.keys()
    assert report.used == len(photos.PHOTOS)


def test_every_faulty_file_is_named_with_its_reason(photos, read):
    report = read[2]
    assert report.found == report.used + len(report.images) == len(photos.PHOTOS) + 3
    assert {drop.path: str(drop.reason) for drop in report.images} == {
        "cut.jpg": "corrupt",
        "page.png": "no caption",
        "thumbnail.png": "too small",
    }
    assert [(drop.path, str(drop.reason)) for drop in report.captions] == [
        ("lost.txt", "caption without image")
    ]


TOLERANCE = {"astronaut.jpg": 3, "cat.png": 3, "motorcycle.webp": 3, "places/palace.jpg": 3}


def test_the_pixels_are_those_of_the_upright_photograph(photos, read):
    for source, name, _, _ in photos.PHOTOS:
        if name != "coffee.png":
            assert error(read[0][name], photos.photo(source)) < TOLERANCE.get(name, 1.5), name


def test_a_photograph_on_its_side_would_not_pass(photos, read):
    upright = photos.photo("skimage/astronaut.png")
    for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_LEFT_RIGHT):
        assert error(read[0]["astronaut.jpg"], upright.transpose(turn)) > 20


def test_transparent_corners_are_white_and_the_middle_is_the_photograph(photos, read):
    image = read[0]["coffee.png"].float()
    whole = (
        torch.from_numpy(np.array(fit(photos.photo("skimage/coffee.png"), 64, 64))).permute(2, 0, 1).float()
    )
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radius = (((x - 31.5) / 48) ** 2 + ((y - 31.5) / 32) ** 2).sqrt()  # 600 x 400, the middle 400 x 400
    assert (image[:, radius < 0.92] - whole[:, radius < 0.92]).abs().max() <= 1
    assert (image[:, radius > 1.08] == 255).all()
    assert (radius > 1.08).sum() > 20


def test_the_script_refuses_to_write_into_a_folder_in_use(photos, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["photos.py", str(folder)])
    with pytest.raises(SystemExit):
        photos.main()
    assert "not empty" in capsys.readouterr().err


def signed(images):
    return images.float() / 127.5 - 1


def kept(images):
    """Mean PSNR of what `data=folder` keeps of images by default, in dB."""
    from t2ilab.build import build
    from t2ilab.config.composition import compose
    from t2ilab.training.reconstruction import psnr

    autoencoder = build(compose(["data=folder", "data.path=/", "run_dir=here"])["autoencoder"])
    back = autoencoder.fit([signed(images)]).decode(autoencoder.encode(signed(images)))
    return psnr(images, ((back + 1) * 127.5).round().to(torch.uint8)).mean().item()


def test_the_default_autoencoder_keeps_at_least_27_dB_of_photographs(photos, read, tmp_path):
    photos.cats(tmp_path / "cat")
    cats = FolderSource(str(tmp_path / "cat"), 64, val_share=0.0, caption="a cat", cache=str(tmp_path))
    assert len(cats) == 40
    assert kept(cats.images(range(40))) > 31
    colourful = [image for name, image in read[0].items() if name in COLOURFUL]
    assert kept(torch.stack(colourful)) > 27


def test_the_built_in_autoencoder_is_refused_for_photographs(photos, tmp_path):
    from t2ilab.latents.kl import PretrainedKL
    from t2ilab.training.reconstruction import reconstruct

    photos.cats(tmp_path / "cat", count=8)
    cats = FolderSource(str(tmp_path / "cat"), 64, val_share=0.0, caption="a cat", cache=str(tmp_path))
    found = reconstruct(cats, PretrainedKL(path="assets/autoencoder", channels=5, factor=8))
    with pytest.raises(ValueError, match="less than their mean colour alone"):
        found.check("")
