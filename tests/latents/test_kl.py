"""KL autoencoders: published sizes, exact scale and shift, saving and loading, refusals."""

import json
import re

import pytest
import torch

from t2ilab.latents.kl import KL, PretrainedKL
from t2ilab.models import count

PUBLISHED = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def small(**options):
    torch.manual_seed(0)
    return KL(**{"channels": 4, "factor": 4, "widths": [8, 16], "groups": 4, "patch": 2, **options}).eval()


def some_images(rows=3, edge=16):
    return torch.rand(rows, 3, edge, edge, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_autoencoders_of_stable_diffusion_have_the_published_parameter_counts():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        sd = AutoencoderKL(**PUBLISHED, latent_channels=4)
        sd3 = AutoencoderKL(**PUBLISHED, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
        ours = KL(channels=4, factor=8, widths=[128, 256, 512, 512], layers=2, groups=32)
    assert count.parameters(sd) == count.parameters(ours) == 83_653_863
    assert count.parameters(sd3) == 83_819_683


@pytest.mark.parametrize(("patch", "factor"), [(1, 2), (2, 4)])
def test_latents_have_the_promised_shape_and_decode_to_images_in_range(patch, factor):
    autoencoder = small(patch=patch, factor=factor)
    latents = autoencoder.encode(some_images())
    assert latents.shape == (3, 4, 16 // factor, 16 // factor)
    images = autoencoder.decode(1e3 * latents)
    assert images.shape == (3, 3, 16, 16) and images.abs().max() <= 1


def test_scale_and_shift_act_per_channel_and_decoding_undoes_them():
    plain = small()
    scaled = small(scale=[1.0, 2.0, 3.0, 4.0], shift=[0.5, 0.0, -1.0, 2.0])
    mean, shift = plain.posterior(some_images())[0], torch.tensor([0.5, 0.0, -1.0, 2.0]).view(1, 4, 1, 1)
    expected = (mean - shift) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(scaled.encode(some_images()), expected)
    torch.testing.assert_close(
        scaled.decode(expected), plain.reconstruct(mean).clamp(-1, 1), atol=1e-5, rtol=1e-5
    )


def test_calibration_gives_latents_zero_mean_and_unit_variance_per_channel():
    autoencoder = small()
    with torch.no_grad():
        autoencoder.calibrate(autoencoder.posterior(some_images(8))[0])
        std, mean = torch.std_mean(autoencoder.encode(some_images(8)), dim=(0, 2, 3))
    torch.testing.assert_close(std, torch.ones(4))
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-5, rtol=0)


def test_the_advice_for_foreign_images_gives_their_latents_unit_variance():
    images = 0.3 * some_images(64) + 0.4
    wrong = small(scale=[3.0, 4.0, 5.0, 6.0], shift=0.1)
    with torch.no_grad():
        advice = wrong.fitting(wrong.encode(images))
        options = {
            name: json.loads(numbers) for name, numbers in re.findall(r"autoencoder\.(\w+)=(\[.*?\])", advice)
        }
        std, mean = torch.std_mean(small(**options).encode(images), dim=(0, 2, 3))
    torch.testing.assert_close(std, torch.ones(4), rtol=2e-3, atol=0)
    torch.testing.assert_close(mean, torch.zeros(4), rtol=0, atol=2e-2)


def test_calibration_refuses_latents_that_do_not_vary():
    with pytest.raises(ValueError, match="does not vary"):
        small().calibrate(torch.ones(4, 4, 2, 2))
    with pytest.raises(ValueError, match="two images"):
        small().calibrate(torch.randn(1, 4, 2, 2))


def test_log_variance_is_clamped_and_the_mean_is_what_encode_gives():
    autoencoder = small()
    with torch.no_grad():
        autoencoder.network.quant_conv.bias[4:] = 99.0
    mean, log_variance = autoencoder.posterior(some_images())
    assert log_variance.max() == 20
    assert torch.equal(autoencoder.encode(some_images()), mean)


def test_saved_and_loaded_autoencoder_is_the_same_with_its_statistics(tmp_path):
    autoencoder = small()
    autoencoder.calibrate(autoencoder.posterior(some_images())[0].detach())
    autoencoder.save(tmp_path)
    loaded = PretrainedKL(path=str(tmp_path), channels=4, factor=4)
    assert loaded.patch == 2 and not loaded.training
    torch.testing.assert_close(
        loaded.encode(some_images()), autoencoder.encode(some_images()), atol=1e-6, rtol=1e-5
    )
    latents = autoencoder.encode(some_images())
    torch.testing.assert_close(loaded.decode(latents), autoencoder.decode(latents), atol=1e-6, rtol=1e-5)


def test_half_precision_files_are_half_the_size_and_load_as_float32(tmp_path):
    autoencoder = small()
    autoencoder.save(tmp_path / "half", dtype=torch.float16)
    autoencoder.save(tmp_path / "full")
    sizes = [next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = PretrainedKL(path=str(tmp_path / "half"), channels=4, factor=4)
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(
        loaded.encode(some_images()), autoencoder.encode(some_images()), atol=1e-2, rtol=1e-2
    )


def test_given_scale_and_shift_replace_those_of_the_folder(tmp_path):
    small(scale=3.0, shift=1.0).save(tmp_path)
    loaded = PretrainedKL(path=str(tmp_path), channels=4, factor=4, scale=0.5, shift=0.25)
    mean = small().posterior(some_images())[0]
    torch.testing.assert_close(loaded.encode(some_images()), (mean - 0.25) * 0.5, atol=1e-6, rtol=1e-5)


def test_scalar_fields_of_a_foreign_folder_are_used_when_it_has_no_others(tmp_path):
    small().save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | {"scaling_factor": 1.5, "shift_factor": 0.5}
    file.write_text(json.dumps({k: v for k, v in config.items() if k not in ("latents_mean", "latents_std")}))
    loaded = PretrainedKL(path=str(tmp_path), channels=4, factor=4)
    assert loaded.scale.unique().tolist() == [1.5] and loaded.shift.unique().tolist() == [0.5]


def test_the_single_numbers_of_a_saved_config_give_mean_0_and_variance_1_over_all_channels(tmp_path):
    autoencoder, mean = small(), small().posterior(some_images())[0]
    autoencoder.calibrate(mean)
    autoencoder.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    latents = (mean - config["shift_factor"]) * config["scaling_factor"]
    assert latents.mean().item() == pytest.approx(0, abs=1e-4)
    assert latents.std(correction=0).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.5, 0.25), ([1.0, 2.0, 3.0, 4.0], [0.0, 0.1, 0.2, 0.3]), (1.0, 0.0)]
)
def test_the_config_of_a_folder_is_corrected_where_scale_and_shift_are_not_its_own(tmp_path, scale, shift):
    file = tmp_path / "config.json"
    small(scale=3.0, shift=1.0).save(tmp_path)
    loaded = PretrainedKL(path=str(tmp_path), channels=4, factor=4, scale=scale, shift=shift)
    loaded.record(file)
    again = PretrainedKL(path=str(tmp_path), channels=4, factor=4)
    torch.testing.assert_close(again.scale, loaded.scale)
    torch.testing.assert_close(again.shift, loaded.shift)
    if isinstance(scale, float):
        config = json.loads(file.read_text())
        assert (config["scaling_factor"], config["shift_factor"]) == pytest.approx((scale, shift))


@pytest.mark.parametrize("more", [(), ("scaling_factor", "shift_factor")])  # as Stable Diffusion 1.5's
def test_a_config_that_is_true_stays_as_it_is_to_the_last_byte(tmp_path, more):
    file = tmp_path / "config.json"
    small(scale=0.18215).save(tmp_path)
    config = json.loads(file.read_text()) | {"shift_factor": None}
    unsaid = ("latents_mean", "latents_std", *more)
    file.write_text(json.dumps({k: v for k, v in config.items() if k not in unsaid}))
    before = file.read_bytes()
    PretrainedKL(path=str(tmp_path), channels=4, factor=4, scale=0.18215, shift=0.0).record(file)
    assert file.read_bytes() == before


def test_the_built_in_one_says_its_true_factor():
    loaded = PretrainedKL(path="assets/autoencoder", channels=5, factor=8)
    assert loaded.network.config.scaling_factor == loaded.statistics()["scaling_factor"] == 1.0


def test_a_missing_or_unfit_folder_is_refused_by_the_name_of_its_option(tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder\.path=<folder> is needed"):
        PretrainedKL(path=None, channels=4, factor=8)
    with pytest.raises(ValueError, match=r"autoencoder\.path: there is no folder"):
        PretrainedKL(path=str(tmp_path / "none"), channels=4, factor=8)
    with pytest.raises(ValueError, match="make assets"):
        PretrainedKL(path="assets/none", channels=4, factor=8)
    with pytest.raises(ValueError, match="holds no AutoencoderKL"):
        PretrainedKL(path=str(tmp_path), channels=4, factor=8)
    small().save(tmp_path)
    with pytest.raises(ValueError, match=r"autoencoder\.channels=8.*has 4 and 4"):
        PretrainedKL(path=str(tmp_path), channels=8, factor=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 8}, r"factor 4, not autoencoder\.factor=8"),
        ({"groups": 3}, r"autoencoder\.groups=3"),
        ({"scale": [1.0, 2.0]}, r"autoencoder\.scale must be one number or 4"),
        ({"scale": -1.0}, r"autoencoder\.scale"),
        ({"shift": float("nan")}, r"autoencoder\.shift"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_images_whose_edges_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"factor 4.*data\.resolution"):
        small().encode(some_images(edge=18))
