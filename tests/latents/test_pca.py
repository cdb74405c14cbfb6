"""Principal components of blocks as an autoencoder."""

import pytest
import torch

from t2ilab.build import build
from t2ilab.export.manifest import identity
from t2ilab.latents.pca import PCA, fitted_on


def images(seed=0, count=6, edge=24):
    """Smooth colours, as photographs have: sums of a few waves."""
    torch.manual_seed(seed)
    waves = torch.nn.functional.interpolate(torch.randn(count, 3, 4, 4), size=(edge, edge), mode="bicubic")
    return (0.4 * waves + 0.02 * torch.randn(count, 3, edge, edge)).clamp(-1, 1)


def fitted(channels=10, factor=4, seed=0):
    return PCA(channels=channels, factor=factor).fit(images(seed).split(4))


def rows(latents):
    return latents.movedim(1, -1).flatten(0, -2).double()


def test_latents_of_the_images_that_were_fitted_have_mean_0_variance_1_and_no_correlation():
    found = rows(fitted().encode(images()))
    assert found.shape == (6 * 6 * 6, 10)
    torch.testing.assert_close(found.mean(0), torch.zeros(10).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.T @ found / len(found), torch.eye(10).double(), atol=1e-4, rtol=0)


def test_no_linear_map_of_as_few_numbers_has_a_smaller_error():
    """Eckart and Young: the squared error is the sum of the squared singular values that are left out."""
    autoencoder, pixels = fitted(channels=7), images()
    blocks = rows(torch.nn.functional.pixel_unshuffle(pixels, 4))
    left_out = torch.linalg.svdvals(blocks - blocks.mean(0))[7:].square().sum()
    error = (autoencoder.decode(autoencoder.encode(pixels)) - pixels).double().square().sum()
    torch.testing.assert_close(error, left_out, rtol=0.01, atol=0)  # clamping to [-1, 1] takes a little off
    assert error <= left_out * (1 + 1e-6)


def test_all_components_give_every_image_back_also_one_that_was_not_fitted():
    autoencoder = fitted(channels=48)
    other = images(seed=1)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(other)), other, atol=1e-4, rtol=0)


def test_images_of_other_shapes_pass_and_unfit_ones_are_refused():
    autoencoder = fitted()
    assert autoencoder.encode(torch.zeros(2, 3, 8, 12)).shape == (2, 10, 2, 3)
    assert autoencoder.decode(torch.zeros(2, 10, 2, 3)).shape == (2, 3, 8, 12)
    with pytest.raises(ValueError, match="divisible by the autoencoder's factor 4"):
        autoencoder.encode(torch.zeros(1, 3, 10, 8))


def test_grey_images_with_fewer_directions_than_channels_give_finite_latents_and_come_back():
    grey = images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    autoencoder = PCA(channels=30, factor=4).fit([grey])  # 16 directions vary
    latents = autoencoder.encode(grey)
    assert latents.abs().max() < 20
    torch.testing.assert_close(autoencoder.decode(latents), grey, atol=2e-3, rtol=0)


def test_autocast_leaves_latents_and_images_as_they_are():
    autoencoder, pixels = fitted(), images()
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(pixels)
        back = autoencoder.decode(latents)
    assert torch.equal(latents, autoencoder.encode(pixels)) and latents.dtype == torch.float32
    assert torch.equal(back, autoencoder.decode(latents))


def test_equal_images_give_equal_components_in_batches_of_any_size():
    one, other = PCA(channels=10, factor=4).fit([images()]), fitted()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], atol=1e-4, rtol=0)


def test_a_saved_one_is_rebuilt_from_its_node_and_known_by_its_weights(tmp_path):
    for seed, name in enumerate(("one", "other")):
        fitted(seed=seed).save(tmp_path / name, images=name)
    node = {"_target_": "t2ilab.latents.pca.PCA", "channels": 10, "factor": 4, "path": str(tmp_path / "one")}
    again = build(node)
    assert torch.equal(again.encode(images(seed=2)), fitted().encode(images(seed=2)))
    assert not again.unfitted
    assert fitted_on(tmp_path / "one") == "one" and fitted_on(tmp_path) is None
    assert identity(node) != identity(node | {"path": str(tmp_path / "other")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0, "factor": 8}, r"autoencoder\.channels must be from 1 to 192, .* got 0"),
        ({"channels": 13, "factor": 2}, r"autoencoder\.channels must be from 1 to 12, .* got 13"),
        ({"channels": 3, "factor": 0}, r"autoencoder\.factor must be at least 1"),
    ],
)
def test_sizes_that_no_block_has_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PCA(**options)


def test_a_folder_of_other_sizes_or_of_none_names_its_option(tmp_path):
    fitted().save(tmp_path / "one", images="")
    for path, channels in ((tmp_path / "one", 11), (tmp_path, 10)):
        with pytest.raises(
            ValueError, match=r"autoencoder\.path: .* no principal components of 1[01] channels"
        ):
            PCA(channels=channels, factor=4, path=str(path))
