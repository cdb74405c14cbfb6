"""Principal directions of latents: exact, of unit variance, the largest first, and nothing else changed."""

import pytest
import torch

from t2ilab.latents.kl import KL, PretrainedKL
from t2ilab.latents.principal import reduced
from t2ilab.stages.autoencoder import finished, posteriors


def autoencoder(spread=(1.0, 2.0, 0.5, 0.1)):
    """A small autoencoder in float64 whose mean latents spread differently in four mixed directions."""
    torch.manual_seed(0)
    network = KL(channels=4, factor=4, widths=[8, 16], groups=4, patch=2).eval().double()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn_like(value))
        mix = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] @ torch.diag(
            torch.tensor(spread, dtype=torch.float64)
        )
        network.network.quant_conv.weight[:4, :4, 0, 0] = mix
    return network


def some_images(rows=6):
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


@pytest.fixture
def both():
    whole = autoencoder()
    mean, log_variance = (part.double() for part in whole.posterior(some_images()))
    return whole, mean, reduced(whole, mean, log_variance, 2).double(), log_variance


@torch.no_grad()
def test_reduced_latents_are_the_whitened_principal_directions(both):
    _, mean, small, _ = both
    rows = mean.movedim(1, -1).reshape(-1, 4)
    axes, sizes, _ = torch.linalg.svd((rows - rows.mean(0)).T, full_matrices=False)
    expected = (rows - rows.mean(0)) @ axes[:, :2] / (sizes[:2] / len(rows) ** 0.5)
    found = small.encode(some_images()).double().movedim(1, -1).reshape(-1, 2)
    signs = (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected * signs, atol=1e-5, rtol=1e-5)
    covariance = found.T @ found / len(found)
    torch.testing.assert_close(covariance, torch.eye(2, dtype=torch.float64), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_decoder_sees_what_the_directions_say_of_the_latents(both):
    whole, mean, small, _ = both
    rows = mean.movedim(1, -1).reshape(-1, 4)
    _, _, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    away = mean - rows.mean(0).view(1, 4, 1, 1)
    projected = torch.einsum("kc,kd,ndhw->nchw", axes[:2], axes[:2], away) + rows.mean(0).view(1, 4, 1, 1)
    before = whole.network.decoder.conv_in(whole.network.post_quant_conv(projected))
    after = small.network.decoder.conv_in(small.network.post_quant_conv(small.encode(some_images()).double()))
    inner = (..., slice(1, -1), slice(1, -1))  # beyond the border the two see different zeros
    torch.testing.assert_close(after[inner], before[inner], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_log_variance_is_that_of_the_projected_noise(both):
    _, mean, small, log_variance = both
    constant = small.posterior(some_images())[1]
    assert constant.std((0, 2, 3)).max() < 1e-6
    rows = mean.movedim(1, -1).reshape(-1, 4)
    axes, sizes, _ = torch.linalg.svd((rows - rows.mean(0)).T, full_matrices=False)
    inward = (axes[:, :2] / (sizes[:2] / len(rows) ** 0.5)).T
    expected = (inward.square() @ log_variance.exp().mean((0, 2, 3))).log()
    torch.testing.assert_close(constant[0, :, 0, 0].double(), expected, atol=1e-5, rtol=1e-5)


def test_the_rest_of_the_network_stays_as_it_was(both):
    whole, _, small, _ = both
    ends = ("conv_out", "conv_in", "quant_conv")
    names = [
        name
        for name in whole.network.state_dict()
        if not (name.startswith(("encoder.conv_out", "decoder.conv_in")) or ends[2] in name)
    ]
    assert len(names) > 20
    for name in names:
        torch.testing.assert_close(small.network.state_dict()[name], whole.network.state_dict()[name])


@torch.no_grad()
def test_a_network_without_quantisation_layers_is_reduced_alike():
    from diffusers import AutoencoderKL

    from t2ilab.latents.kl import BaseKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8,),
        latent_channels=3,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    whole = BaseKL(network.eval(), 1.0, 0.0)
    mean, log_variance = whole.posterior(some_images().float())
    small = reduced(whole, mean, log_variance, 3)
    found = small.encode(some_images().float()).movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(found.T @ found / len(found), torch.eye(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [0, 5])
def test_directions_that_there_are_not_are_refused(both, channels):
    whole, mean, _, log_variance = both
    with pytest.raises(ValueError, match=f"stage.principal must be from 1 to 4 channels, got {channels}"):
        reduced(whole, mean, log_variance, channels)


def test_latents_that_do_not_vary_are_refused(both):
    whole, mean, _, log_variance = both
    with pytest.raises(ValueError, match=r"vary in fewer than stage\.principal=2 directions"):
        reduced(whole, mean[:, :1].expand(-1, 4, -1, -1), log_variance, 2)


class Rows:
    """What `finished` reads of training rows."""

    def __init__(self):
        self.images = self

    def __len__(self):
        return 8

    def rows(self, name, which):
        return torch.randint(256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(2)).byte()


def test_what_is_exported_holds_the_directions_and_loads_again(tmp_path):
    done = finished(autoencoder().float(), Rows(), frozen=True, principal=3)
    means, _ = posteriors(done, Rows().rows("images", range(8)))
    assert means.shape == (8, 3, 4, 4)
    assert means.std((0, 2, 3)).tolist() == pytest.approx([1.0] * 3, abs=0.01)  # weights rounded to fp16
    done.save(tmp_path / "vae", dtype=torch.float16)
    loaded = PretrainedKL(path=str(tmp_path / "vae"), channels=3, factor=4)
    torch.testing.assert_close(posteriors(loaded, Rows().rows("images", range(8)))[0], means)
