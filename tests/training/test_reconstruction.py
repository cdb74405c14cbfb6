"""Images through an autoencoder and back, before anything is trained on its latents."""

import numpy as np
import pytest
import torch

from t2ilab.eval.grid import read_grid
from t2ilab.latents.base import Autoencoder
from t2ilab.latents.identity import Identity
from t2ilab.latents.pca import PCA
from t2ilab.training.latent_rows import to_signed
from t2ilab.training.reconstruction import psnr, reconstruct


class Images:
    """A source whose images are noise around a colour each; `asked` are the numbers of those that were read."""

    resolution = 16

    def __init__(self, count=100, spread=30.0):
        generator = torch.Generator().manual_seed(0)
        colours = torch.rand(count, 3, 1, 1, generator=generator) * 160 + 40
        noise = torch.randn(count, 3, 16, 16, generator=generator) * spread
        self.stored, self.asked = (colours + noise).clamp(0, 255).to(torch.uint8), []

    def __len__(self):
        return len(self.stored)

    def images(self, rows):
        self.asked += rows
        return self.stored[rows]


class Dark(Autoencoder):
    """Forgets everything, and halves the brightness."""

    channels, factor = 3, 1

    def encode(self, images):
        return images

    def decode(self, latents):
        return (latents.mean((2, 3), keepdim=True).expand(latents.shape) - 1) / 2


def test_the_ratio_is_that_of_the_formula():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    others = images.clone()
    others[1, 0, 0, 0] += 48
    assert psnr(images, others)[1].item() == pytest.approx(10 * np.log10(255**2 / (48**2 / 48)))
    assert psnr(images, others)[0] > 70


def test_pixels_come_back_whole_and_the_mean_colour_has_the_ratio_of_the_spread():
    found = reconstruct(Images(), Identity())
    assert found.psnr.min() > 70
    assert found.mean_psnr.mean().item() == pytest.approx(20 * np.log10(255 / 30), abs=0.3)
    metric = found.metric()
    assert (metric.unit, metric.n, metric.higher_is_better) == ("dB", 64, True)
    assert (
        metric.value == pytest.approx(float(found.psnr.mean())) and metric.low <= metric.value <= metric.high
    )


def test_64_images_evenly_spaced_are_looked_at_and_no_random_number_is_drawn():
    source, state = Images(), torch.get_rng_state()
    reconstruct(source, Identity())
    assert source.asked == [row * 100 // 64 for row in range(64)]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_autoencoder_that_keeps_less_than_the_mean_colour_is_refused_with_what_fits():
    with pytest.raises(ValueError, match=r"^autoencoder: it keeps .* dB .*mean colour.*strip\.png") as caught:
        reconstruct(Images(), Dark()).check("strip.png")
    assert "autoencoder=pca" in str(caught.value)


def test_where_no_other_can_be_chosen_another_model_to_start_from_is_advised():
    with pytest.raises(
        ValueError, match="start from a model that was trained on images like these"
    ) as caught:
        reconstruct(Images(), Dark()).check("strip.png", inherited=True)
    assert "autoencoder=pca" not in str(caught.value)


def test_one_that_keeps_little_more_passes_and_images_of_one_colour_ask_for_no_perfection():
    source = Images(count=9)
    reconstruct(source, PCA(channels=4, factor=4).fit([to_signed(source.stored)])).check("")
    flat = reconstruct(Images(spread=0.0), PCA(channels=3, factor=4).fit([to_signed(source.stored)]))
    assert 30 < flat.psnr.mean() < flat.mean_psnr.mean()
    flat.check("")


def test_the_strip_shows_eight_images_above_what_comes_back_with_both_ratios(tmp_path):
    found = reconstruct(Images(), Dark())
    grid = read_grid(found.save(tmp_path / "strip.png"))
    assert grid.images.shape == (16, 16, 16, 3)
    assert np.array_equal(grid.images[:8], found.images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(grid.images[8:], found.rebuilt.permute(0, 2, 3, 1).numpy())
    assert grid.info == {"psnr": float(found.psnr.mean()), "mean_psnr": float(found.mean_psnr.mean())}


def test_a_single_image_gives_a_number_without_an_interval():
    metric = reconstruct(Images(count=1), Identity()).metric()
    assert metric.n == 1 and metric.low is None
