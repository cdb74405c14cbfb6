import json

import pytest
import torch

from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.latents.kl import PretrainedKL
from t2ilab.stages.rows import to_signed
from tests.runs import FOUNDATION, crash_here, losses, run_here, same_run, same_weights

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = (
    "stage=autoencoder",
    *FOUNDATION,
    "data.size=24",
    "data.val_size=16",
    "autoencoder.widths=[8,8,8]",
    "autoencoder.groups=4",
    "autoencoder.channels=4",
    "autoencoder.attention=false",
    "optimizer.lr=1e-2",
    "trainer.max_steps=6",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    return folder, run_here(folder, *SMALL, tiny=[])


def test_an_autoencoder_learns_and_its_export_is_a_calibrated_autoencoder(finished):
    folder, value = finished
    rows = [float(row["train/loss"]) for row in losses(folder).values()]
    assert len(rows) == 6 and sum(rows[3:]) < 0.97 * sum(rows[:3])  # two epochs of the same pictures
    assert {"train/reconstruction", "train/kl"} <= losses(folder)[1].keys()
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "autoencoder" and manifest["steps"] == 6
    assert manifest["evaluation"]["psnr"] == value > 5
    assert 0 <= manifest["evaluation"]["judge_right"] <= 1
    assert (folder / "samples/reconstructions.png").is_file()
    network = PretrainedKL(path=str(folder / "export/vae"), channels=4, factor=8)
    latents = network.encode(to_signed(SceneSource("general", size=24, resolution=32).images(range(24))))
    assert latents.shape == (24, 4, 4, 4)
    assert latents.std((0, 2, 3)).tolist() == pytest.approx(
        [1.0] * 4, abs=0.02
    )  # calibrated on these very pictures


def test_an_autoencoder_that_was_stopped_goes_on_bit_for_bit(finished, tmp_path):
    crash_here(tmp_path / "run", 3, *SMALL, tiny=[])
    assert run_here(tmp_path / "run", *SMALL, tiny=[]) == finished[1]
    same_run(tmp_path / "run", finished[0])
    assert run_here(tmp_path / "run", *SMALL, tiny=[]) == finished[1]  # finished: nothing is done again


def test_the_seed_of_the_run_decides_its_weights(finished, tmp_path):
    torch.rand(7)  # whatever was drawn before
    run_here(tmp_path / "same", *SMALL, tiny=[])
    same_weights(tmp_path / "same", finished[0])
    run_here(tmp_path / "other", *SMALL, "seed=1", tiny=[])
    assert losses(tmp_path / "other")[1]["train/loss"] != losses(finished[0])[1]["train/loss"]


def test_with_a_frozen_encoder_latents_stay_and_pictures_change(finished, tmp_path):
    run_here(tmp_path / "run", *SMALL, f"init_from={finished[0]}", "stage.freeze_encoder=true", tiny=[])
    before, after = (
        PretrainedKL(path=str(folder / "export/vae"), channels=4, factor=8)
        for folder in (finished[0], tmp_path / "run")
    )
    images = to_signed(SceneSource("general", size=4, resolution=32).images(range(4)))
    latents = before.encode(images)
    assert torch.equal(after.encode(images), latents)
    assert (after.decode(latents) - before.decode(latents)).abs().max() > 1e-3


def test_a_frozen_encoder_must_come_from_somewhere(tmp_path):
    with pytest.raises(ValueError, match=r"stage.freeze_encoder=true keeps the encoder of init_from"):
        run_here(tmp_path / "run", *SMALL, "stage.freeze_encoder=true", tiny=[])
    assert not (tmp_path / "run").exists()
