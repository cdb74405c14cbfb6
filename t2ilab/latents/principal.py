"""Fewer latent channels without new training: the principal axes of the latents, by the weights alone.

An autoencoder that learned with noise on its latents repeats itself: its C channels vary in few directions, and a
denoiser would spend itself on reproducing noise in the others. Of the latents z of many images, mean mu and
covariance V diag(e) V^T over channels, the k largest directions are kept, each with variance 1:

    y = diag(e)^(-1/2) V_k^T (z - mu),      z ~ mu + V_k diag(e)^(1/2) y

Both maps are linear per place, so they go into the last convolution of the encoder and the first of the decoder. The
mean latents are exactly y. The decoder differs from the old one by the C - k directions left out and, in the
outermost places, by what its first convolution sees beyond the border: 0 is now y = 0, thus z = mu.
The log-variance of y is a constant, the mean of what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2ilab.latents.kl import BaseKL

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


@torch.no_grad()
def reduced(autoencoder: BaseKL, means: Tensor, log_variances: Tensor, channels: int) -> BaseKL:
    """An autoencoder with the `channels` principal directions of another one's latents.

    Args:
        means, log_variances: unscaled latents of images, (n, C, H, W) each.

    Raises:
        ValueError: the latents have fewer channels, or vary in fewer directions.
    """
    if not 1 <= channels <= autoencoder.channels:
        raise ValueError(f"stage.principal must be from 1 to {autoencoder.channels} channels, got {channels}")
    rows = means.movedim(1, -1).flatten(0, -2).double()
    mu = rows.mean(0)
    variances, axes = torch.linalg.eigh((rows - mu).T @ (rows - mu) / len(rows))
    variances, axes = variances.flip(0)[:channels], axes.flip(1)[:, :channels]
    if not bool((variances > 1e-12).all()):
        raise ValueError(f"the latents vary in fewer than stage.principal={channels} directions")
    inward, outward = (axes / variances.sqrt()).T, axes * variances.sqrt()  # (k, C), (C, k)
    noise = inward.square() @ log_variances.double().exp().mean((0, 2, 3))  # of y, (k,)
    network = _resized(autoencoder.network, channels)
    _lead(network.encoder.conv_out, _encoder_end(autoencoder.network), inward, -inward @ mu, noise.log())
    _follow(network.decoder.conv_in, _decoder_start(autoencoder.network), outward, mu)
    for layer in (network.quant_conv, network.post_quant_conv):
        if layer is not None:
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(_bias(layer))
    return BaseKL(network, scale=1.0, shift=0.0).eval()


def _resized(network: AutoencoderKL, channels: int) -> AutoencoderKL:
    """A copy for `channels` latent channels; the layers that end in latents are new."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    public: dict[str, Any] = {name: value for name, value in network.config.items() if name[0] != "_"}
    copy = AutoencoderKL.from_config(public | {"latent_channels": channels})
    own = copy.state_dict()
    weights = {name: value for name, value in network.state_dict().items() if value.shape == own[name].shape}
    copy.load_state_dict(own | weights)
    return copy


def _encoder_end(network: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Weight (C, features, 3, 3) and bias (C,) from the last features to mean latents."""
    weight, bias = network.encoder.conv_out.weight.double(), _bias(network.encoder.conv_out).double()
    if network.quant_conv is not None:
        mix = network.quant_conv.weight.double().flatten(1)
        weight, bias = (
            torch.einsum("om,mfyx->ofyx", mix, weight),
            mix @ bias + _bias(network.quant_conv).double(),
        )
    half = len(bias) // 2
    return weight[:half], bias[:half]


def _decoder_start(network: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Weight (features, C, 3, 3) and bias (features,) from latents to the first features."""
    weight, bias = network.decoder.conv_in.weight.double(), _bias(network.decoder.conv_in).double()
    if network.post_quant_conv is None:
        return weight, bias
    mix = network.post_quant_conv.weight.double().flatten(1)
    offset = _bias(network.post_quant_conv).double()
    return torch.einsum("fmyx,mc->fcyx", weight, mix), bias + torch.einsum("fmyx,m->f", weight, offset)


def _lead(
    layer: nn.Conv2d, end: tuple[Tensor, Tensor], linear: Tensor, offset: Tensor, log_noise: Tensor
) -> None:
    """Sets the encoder's last layer to linear(end) + offset and, for the log-variances, to a constant."""
    weight, bias = torch.einsum("kc,cfyx->kfyx", linear, end[0]), linear @ end[1] + offset
    layer.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
    _bias(layer).copy_(torch.cat([bias, log_noise]))


def _follow(layer: nn.Conv2d, start: tuple[Tensor, Tensor], linear: Tensor, offset: Tensor) -> None:
    """Sets the decoder's first layer to start(linear y + offset)."""
    layer.weight.copy_(torch.einsum("fcyx,ck->fkyx", start[0], linear))
    _bias(layer).copy_(start[1] + torch.einsum("fcyx,c->f", start[0], offset))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
