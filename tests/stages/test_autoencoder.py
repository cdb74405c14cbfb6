import json
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.eval.grid import read_grid
from t2ilab.latents.kl import PretrainedKL
from t2ilab.training.latent_rows import to_signed
from tests.photographs import folder_of_shapes
from tests.runs import FOUNDATION, crash_here, losses, run_here, same_run, same_weights, signal_at, start

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
ADVERSARIAL = (  # the discriminator comes in at the third step, checkpoints are those of steps 2, 4, 6
    *SMALL,
    "loss=adversarial_reconstruction",
    "optimizer=adamw",  # Muon rounds to bf16 where the hardware has it, and a game makes that large
    "loss.start_step=2",
    "loss.discriminator.network.width=8",
    "loss.learned_variance=true",
    "latent_alignment@loss.latent_alignment=va_vae",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    return folder, run_here(folder, *SMALL, tiny=[])


def test_an_autoencoder_learns_and_its_export_is_a_calibrated_autoencoder(finished):
    folder, value = finished
    rows = [float(row["train/loss"]) for row in losses(folder).values()]
    assert len(rows) == 6 and sum(rows[3:]) < 0.97 * sum(rows[:3])  # two epochs of the same images
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
    )  # calibrated on these very images


def test_a_folder_of_few_images_is_enough(tmp_path):
    photos = folder_of_shapes(tmp_path / "photos", 8)
    of_photos = (*SMALL[1:], "data=folder", f"data.path={photos}", "trainer.max_steps=2")
    options = [option for option in of_photos if not option.startswith(("data.size", "data.val_size"))]
    folder = tmp_path / "run"
    run_here(folder, SMALL[0], *options, tiny=[])
    assert (folder / "export/vae").is_dir()
    pairs = read_grid(folder / "samples/reconstructions.png")
    found = json.loads((folder / "data_report.json").read_text())
    assert found["used"] == 8 and len(pairs.images) == 2 * found["splits"]["val"] < 32
    assert "8 images found" in (folder / "report.html").read_text()


def test_the_export_holds_the_averaged_weights_that_were_measured(finished):
    folder, _ = finished
    state = torch.load(folder / "checkpoints/step_00000006.ckpt", weights_only=True)
    exported = load_file(folder / "export/vae/diffusion_pytorch_model.safetensors")
    averaged = state["callbacks"]["Averaging"]["shadow"]
    assert all(torch.equal(value, averaged[f"network.{name}"].half()) for name, value in exported.items())
    raw = state["state_dict"]
    assert any(
        not torch.equal(value, raw[f"student.network.{name}"].half()) for name, value in exported.items()
    )


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


def test_with_a_frozen_encoder_latents_stay_and_images_change(finished, tmp_path):
    run_here(tmp_path / "run", *SMALL, f"init_from={finished[0]}", "stage.freeze_encoder=true", tiny=[])
    before, after = (
        PretrainedKL(path=str(folder / "export/vae"), channels=4, factor=8)
        for folder in (finished[0], tmp_path / "run")
    )
    images = to_signed(SceneSource("general", size=4, resolution=32).images(range(4)))
    latents = before.encode(images)
    assert torch.equal(after.encode(images), latents)
    assert (after.decode(latents) - before.decode(latents)).abs().max() > 1e-3


def test_a_run_does_not_go_on_from_another_autoencoder_than_it_began_with(finished, tmp_path):
    """Scale and shift of a frozen encoder are in no checkpoint: another one's would be taken for them."""
    first = shutil.copytree(finished[0], tmp_path / "first")
    options = (*SMALL, f"init_from={first}", "stage.freeze_encoder=true")
    crash_here(tmp_path / "run", 3, *options, tiny=[])
    manifest = first / "export/t2ilab.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match="is not the model that the run"):
        run_here(tmp_path / "run", *options, tiny=[])


def test_a_frozen_encoder_must_come_from_somewhere(tmp_path):
    with pytest.raises(ValueError, match=r"stage.freeze_encoder=true keeps the encoder of init_from"):
        run_here(tmp_path / "run", *SMALL, "stage.freeze_encoder=true", tiny=[])
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adversarial") / "run"
    return folder, run_here(folder, *ADVERSARIAL, tiny=[])


def test_an_autoencoder_and_a_discriminator_learn_in_turns(adversarial):
    folder, value = adversarial
    rows = losses(folder)
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    always = {"reconstruction", "perceptual", "kl", "alignment", "alignment_weight", "log_variance"}
    later = {"adversarial", "adversarial_weight", "logits_real", "logits_fake"}
    later |= {"discriminator/loss", "discriminator/grad_norm"}
    for step, row in rows.items():
        assert all(row[f"train/{name}"] for name in always), step
        assert all(bool(row[f"train/{name}"]) == (step > 2) for name in later), step
    assert float(rows[3]["train/logits_fake"]) == pytest.approx(-float(rows[3]["train/adversarial"]))
    assert float(rows[6]["train/log_variance"]) != 0
    assert 0 < float(rows[3]["train/adversarial_weight"]) < 0.5 * 1e4
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "autoencoder" and manifest["evaluation"]["psnr"] == value > 5
    report = (folder / "report.html").read_text()
    assert ">discriminator</text>" in report and re.search(rf"<td[^>]*>{value}</td>", report)


def test_all_that_learns_is_in_a_checkpoint_and_the_average_is_of_the_student_alone(adversarial):
    state = torch.load(adversarial[0] / "checkpoints/step_00000006.ckpt", weights_only=True)
    names = {name.split(".network.")[0] for name in state["state_dict"]}
    assert names == {
        "student",
        "objective.discriminator",
        "objective.log_variance",
        "objective.latent_alignment.project.weight",
    }
    average = state["callbacks"]["Averaging"]
    assert all(name.startswith("network.") for name in average["shadow"]) and average["updates"] == 6
    student, discriminator = (optimizer["state"] for optimizer in state["optimizer_states"])
    assert {int(entry["step"]) for entry in student.values() if "step" in entry} == {6}  # those of AdamW
    assert {int(entry["step"]) for entry in discriminator.values()} == {4}
    assert state["global_step"] == 6


def test_a_game_that_was_stopped_twice_goes_on_bit_for_bit(adversarial, tmp_path):
    for step in (3, 5):  # the discriminator has played once; from the checkpoint with it
        crash_here(tmp_path / "run", step, *ADVERSARIAL, tiny=[])
    assert run_here(tmp_path / "run", *ADVERSARIAL, tiny=[]) == adversarial[1]
    same_run(tmp_path / "run", adversarial[0])
    whole, again = (
        torch.load(folder / "checkpoints/step_00000006.ckpt", weights_only=True)
        for folder in (adversarial[0], tmp_path / "run")
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(again["state_dict"][name], value), name


@pytest.mark.slow
def test_a_game_that_was_killed_goes_on_bit_for_bit(tmp_path):
    longer = (*ADVERSARIAL, "trainer.max_steps=24")
    run_here(tmp_path / "whole", *longer, tiny=[])
    assert signal_at(start(tmp_path / "run", *longer, tiny=[]), tmp_path / "run", 7) == -signal.SIGKILL
    assert not (tmp_path / "run/finished.json").exists()
    run_here(tmp_path / "run", *longer, tiny=[])
    same_run(tmp_path / "run", tmp_path / "whole")


def test_accumulation_changes_the_losses_of_a_game_by_rounding_only(adversarial, tmp_path):
    run_here(tmp_path / "run", *ADVERSARIAL, "trainer.accumulate=4", tiny=[])
    other = losses(tmp_path / "run")
    for step, row in losses(adversarial[0]).items():
        for name in row:
            mine, theirs = (float(found[name] or 0) for found in (row, other[step]))
            assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5), (step, name)


def test_a_student_alone_can_have_the_other_terms(tmp_path):
    run_here(tmp_path / "run", *ADVERSARIAL, "loss.discriminator=null", "trainer.max_steps=3", tiny=[])
    columns = losses(tmp_path / "run")[3].keys()
    assert "train/perceptual" in columns and not [name for name in columns if "discriminator" in name]
