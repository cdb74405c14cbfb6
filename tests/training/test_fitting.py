"""An autoencoder that is fitted on the images of a run."""

import pytest
import torch

from t2ilab.build import build
from t2ilab.export.denoiser import load
from t2ilab.latents.pca import PCA
from t2ilab.runs.folder import RunDir
from t2ilab.training.fitting import fitted
from tests.photographs import photograph
from tests.tiny import command

NODE = {"_target_": "t2ilab.latents.pca.PCA", "channels": 5, "factor": 4, "path": None}


class Images:
    """A source of random images; `asked` are the numbers of those that were read."""

    resolution = 8

    def __init__(self, seed=0, count=12):
        self.seed, self.asked = seed, []
        self.stored = torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.stored)

    def images(self, rows):
        self.asked += rows
        return self.stored[rows].to(torch.uint8)

    def image_digest(self):
        return f"images {self.seed}"


def start(folder, source, node=NODE):
    """A start of a run: the config that its parts are built from, and the autoencoder."""
    run = RunDir(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    autoencoder = build(node)
    return fitted({"autoencoder": node, "seed": 0}, autoencoder, source, run), autoencoder


def test_a_run_that_goes_on_reads_what_its_first_start_fitted(tmp_path):
    (config, first), again = start(tmp_path, Images()), Images()
    assert config == {"autoencoder": NODE | {"path": str(tmp_path / "autoencoder")}, "seed": 0}
    later, second = start(tmp_path, again)
    assert later == config and again.asked == []
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert torch.equal(build(config["autoencoder"]).axes, first.axes)


def test_other_images_in_the_same_folder_are_fitted_anew(tmp_path):
    _, first = start(tmp_path, Images())
    _, second = start(tmp_path, Images(seed=1))
    assert not torch.equal(first.axes, second.axes)


def test_images_for_the_fit_are_spread_evenly_over_many(tmp_path, monkeypatch):
    monkeypatch.setattr("t2ilab.training.fitting.IMAGES", 4)
    source = Images()
    start(tmp_path, source)
    assert source.asked == [0, 3, 6, 9]


def test_an_autoencoder_with_weights_is_left_alone(tmp_path):
    config, autoencoder = start(tmp_path, Images())
    source = Images(seed=1)
    again = fitted(config, autoencoder, source, RunDir(tmp_path / "other"))
    assert again is config and source.asked == []
    assert isinstance(autoencoder, PCA)


@pytest.mark.slow
def test_the_components_travel_in_the_export_and_a_longer_run_keeps_them(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        photograph(tmp_path / f"photos/{number}.png", number)
    options = [
        "debug=tiny",
        "data=folder",
        f"data.path={tmp_path}/photos",
        "data.caption=a photo",
        "data.flip=true",
    ]
    options += ["autoencoder=pca", "model.patch_size=1", "trainer.max_steps=2", "checkpoint.every=1"]
    command(*options, run_dir=tmp_path / "run")
    first = load(tmp_path / "run").autoencoder
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = load(tmp_path / "moved")
    assert moved.nodes["autoencoder"]["path"] == str(tmp_path / "moved/export/vae")
    command(*options, "trainer.max_steps=3", run_dir=tmp_path / "moved")
    longer = load(tmp_path / "moved").autoencoder
    for other in (moved.autoencoder, longer):
        assert torch.equal(other.axes, first.axes) and torch.equal(other.std, first.std)
