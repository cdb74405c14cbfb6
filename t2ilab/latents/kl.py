"""Variational autoencoders of diffusers' AutoencoderKL class, new or from a folder.

The encoder gives mean m and log-variance of a Gaussian per latent number. Latents are z = (m - shift) * scale
with one shift and scale for all channels or one each, such that z has unit variance; both stay outside the
network's weights, in its config (diffusers' `latents_mean` and `latents_std`, or its scalar fields).

With patch p > 1 the network sees images with p x p pixels folded into 3 p^2 channels (pixel unshuffle),
which saves the finest and slowest resolution: on the CPU training is 1.7 times as fast with p = 2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.latents.base import Autoencoder, per_channel

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

UNSAID = 0.18215  # the scaling factor of a diffusers config that names none, such as Stable Diffusion 1.5's


class BaseKL(Autoencoder):
    """What a new and a loaded KL autoencoder have in common."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: AutoencoderKL, scale: float | Sequence[float], shift: float | Sequence[float]
    ) -> None:
        super().__init__()
        config: Any = network.config
        self.network = network
        self.channels = int(config.latent_channels)
        self.patch = math.isqrt(config.in_channels // 3)
        self.factor = self.patch * 2 ** (len(config.block_out_channels) - 1)
        self.register_buffer("scale", per_channel(scale, self.channels, "scale"), persistent=False)
        self.register_buffer("shift", per_channel(shift, self.channels, "shift"), persistent=False)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (clamped to [-30, 20]) of unscaled latents, each (B, C, H, W), float32."""
        self.check_images(images)
        moments = self.network.encoder(F.pixel_unshuffle(images, self.patch))
        if self.network.quant_conv is not None:
            moments = self.network.quant_conv(moments)
        mean, log_variance = moments.float().chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def reconstruct(self, unscaled: Tensor) -> Tensor:
        """Images from latents without scale and shift, not clamped: what a training loss looks at."""
        if self.network.post_quant_conv is not None:
            unscaled = self.network.post_quant_conv(unscaled)
        return F.pixel_shuffle(self.network.decoder(unscaled).float(), self.patch)

    def encode(self, images: Tensor) -> Tensor:
        return (self.posterior(images)[0] - self.shift) * self.scale

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        images = self.reconstruct(latents / self.scale + self.shift)
        return images.clamp(-1, 1) if clamp else images

    def fitting(self, latents: Tensor) -> str:
        std, mean = torch.std_mean(latents.float(), dim=(0, 2, 3), keepdim=True)
        scale, shift = self.scale.cpu() / std, self.shift.cpu() + mean / self.scale.cpu()
        numbers = (",".join(f"{number:.4g}" for number in part.flatten().tolist()) for part in (scale, shift))
        return "'autoencoder.scale=[{}]' 'autoencoder.shift=[{}]'".format(*numbers)

    def freeze_encoder(self) -> None:
        """Takes the encoder out of training: latents stay as they are."""
        for part in (self.network.encoder, self.network.quant_conv):
            if part is not None:
                part.requires_grad_(False)

    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last convolution, for the adaptive weight of an adversarial term."""
        return self.network.decoder.get_parameter("conv_out.weight")

    def last_encoder_layer(self) -> nn.Parameter:
        """The weight of the encoder's last convolution, for the adaptive weight of an alignment."""
        return self.network.encoder.get_parameter("conv_out.weight")

    @torch.no_grad()
    def calibrate(self, means: Tensor) -> None:
        """Sets shift and scale per channel: the posterior means (n, C, H, W) get mean 0 and variance 1."""
        if means.shape[0] < 2:
            raise ValueError(f"calibration needs at least two images' latents, got {means.shape[0]}")
        std, mean = torch.std_mean(means.float(), dim=(0, 2, 3), keepdim=True)
        if not bool((std > 1e-6).all()):
            raise ValueError(f"a latent channel does not vary: std per channel {std.flatten().tolist()}")
        self.shift.copy_(mean)
        self.scale.copy_(1 / std)

    def statistics(self) -> dict[str, Any]:
        """Scale and shift as a diffusers config has them, per channel and for readers of one number for all.

        The single numbers give mean 0 and variance 1 over all channels together: of stds s_c and
        means m_c, scaling_factor = (mean_c s_c^2 + var_c m_c)^(-1/2) and shift_factor = mean_c m_c.
        """
        mean, std = self.shift.double().flatten(), 1 / self.scale.double().flatten()
        together = (std.square().mean() + mean.var(correction=0)).sqrt()
        return {
            "latents_mean": mean.tolist(),
            "latents_std": std.tolist(),
            "scaling_factor": float(1 / together),
            "shift_factor": float(mean.mean()),
        }

    def record(self, file: Path) -> None:
        """Corrects a config file of diffusers that says another scale or shift than this autoencoder has."""
        config = {"scaling_factor": UNSAID} | json.loads(file.read_text())
        own = self.statistics()
        scale, shift = (per_channel(value, self.channels, "shift") for value in recorded_statistics(config))
        said = [
            *shift.flatten(),
            *(1 / scale).flatten(),
            config["scaling_factor"],
            config.get("shift_factor") or 0,
        ]
        true = [*own["latents_mean"], *own["latents_std"], own["scaling_factor"], own["shift_factor"]]
        if not torch.allclose(torch.tensor(said), torch.tensor(true), rtol=1e-5, atol=1e-7):
            file.write_text(json.dumps(config | own, indent=2, sort_keys=True) + "\n")

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Writes the network in diffusers' layout, with scale and shift in its config, weights as `dtype`."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        public = {key: value for key, value in self.network.config.items() if not key.startswith("_")}
        config = public | self.statistics()
        with torch.device("meta"):
            copy = AutoencoderKL.from_config(config)
        weights = {name: value.to("cpu", dtype) for name, value in self.network.state_dict().items()}
        copy.load_state_dict(weights, assign=True)
        copy.save_pretrained(folder)


class KL(BaseKL):
    """A new AutoencoderKL with random weights, to be trained.

    Args:
        channels: C of the latents.
        factor: image edge over latent edge, patch * 2^(number of widths - 1).
        widths: channels of each resolution, finest first.
        layers: residual blocks per resolution in the encoder; the decoder has one more.
        groups: groups of the group normalisation.
        patch: pixels folded into channels before the network, see the module.
        attention: self-attention at the coarsest resolution.
        scale, shift: see the module; calibrate() measures them after training.
    """

    def __init__(
        self,
        *,
        channels: int,
        factor: int,
        widths: Sequence[int],
        layers: int = 1,
        groups: int = 8,
        patch: int = 1,
        attention: bool = True,
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
    ) -> None:
        own_factor = patch * 2 ** (len(widths) - 1)
        if factor != own_factor:
            raise ValueError(
                f"{len(widths)} autoencoder.widths and autoencoder.patch={patch} give factor {own_factor}, "
                f"not autoencoder.factor={factor}"
            )
        bad = [width for width in widths if width % groups]
        if bad:
            raise ValueError(
                f"autoencoder.widths must be divisible by autoencoder.groups={groups}, got {bad}"
            )
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        network = AutoencoderKL(
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            latent_channels=channels,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
            force_upcast=False,
        )
        super().__init__(network, scale, shift)


class PretrainedKL(BaseKL):
    """An AutoencoderKL from a folder on this disk (diffusers' layout), in evaluation mode.

    Args:
        path: the folder; one that begins with "assets/" lies inside this package.
        channels, factor: what other parts of the config rely on; must be those of the folder.
        scale, shift: None to take what the folder's config says; given, they replace it.
    """

    def __init__(
        self,
        *,
        path: str | None,
        channels: int,
        factor: int,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
    ) -> None:
        folder = local_folder(path, "autoencoder.path")
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        try:
            network = AutoencoderKL.from_pretrained(
                folder, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False
            )
        except OSError as error:
            raise ValueError(f"autoencoder.path: {folder} holds no AutoencoderKL ({error})") from error
        own_scale, own_shift = recorded_statistics(network.config)
        super().__init__(
            network, own_scale if scale is None else scale, own_shift if shift is None else shift
        )
        if (self.channels, self.factor) != (channels, factor):
            raise ValueError(
                f"autoencoder.channels={channels} and autoencoder.factor={factor}, but {folder} has "
                f"{self.channels} and {self.factor}"
            )
        self.eval()


def recorded_statistics(config: Any) -> tuple[float | list[float], float | list[float]]:
    """(scale, shift) of a diffusers autoencoder config: per channel if it has them, else one number."""
    if config.get("latents_std") is not None:
        return [1 / std for std in config["latents_std"]], list(config.get("latents_mean") or [0.0])
    return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
