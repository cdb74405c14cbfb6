"""The U-Net of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): diffusers' class, started from zero.

diffusers builds UNet2DConditionModel for loading weights and leaves its last convolution random; here it
starts at zero, as in the original code, so that the output is exactly 0 before training. Text vectors may be
brought to zero mean and unit variance first, as in the DiT, so that any text encoder starts alike. `UNet.network` is
diffusers' class itself, so its published weights load as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from t2ilab.core.attention import attend, merge_heads, split_heads
from t2ilab.core.types import Condition
from t2ilab.models.inputs import needed, pooled_text, text_tokens
from t2ilab.models.layers import plain_norm


class UNet(nn.Module):
    """Convolutions, self-attention and cross-attention to text tokens on several resolutions.

    Args:
        in_channels: C of the latents.
        input_size: height and width of the latents; must survive the halvings.
        widths: channels of each resolution, finest first; each step to the next halves the resolution.
        layers: residual blocks per resolution.
        attention: for each resolution, whether it has self- and cross-attention.
        head_dim: width of one attention head, for all resolutions or for each.
        text_dim: width of the text tokens.
        pooled_dim: width of the pooled text vector that is added to the time embedding; None to do without.
        groups: groups of the group normalisation.
        depths: transformer layers behind each residual block.
        adaptive_norm: time and pooled text scale and shift the normalised features of every residual block
            (Dhariwal & Nichol 2021, arXiv 2105.05233) instead of being added before the normalisation, as in
            Stable Diffusion.
        linear_projection: attention is entered and left by linear layers instead of 1 x 1 convolutions, of the same
            size; SD1 has convolutions.
        norm_text: bring text vectors to zero mean and unit variance; the published weights want them as they are.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        input_size: int,
        widths: Sequence[int],
        layers: int,
        attention: Sequence[bool],
        head_dim: int | Sequence[int],
        text_dim: int,
        pooled_dim: int | None = None,
        groups: int = 32,
        depths: int = 1,
        adaptive_norm: bool = False,
        linear_projection: bool = True,
        norm_text: bool = True,
    ) -> None:
        super().__init__()
        head_dims = [head_dim] * len(widths) if isinstance(head_dim, int) else list(head_dim)
        _check(widths, attention, head_dims, groups, input_size)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention]
        up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)]
        self.text_dim, self.pooled_dim, self.norm_text = text_dim, pooled_dim, norm_text
        self.network = UNet2DConditionModel(
            sample_size=input_size,
            in_channels=in_channels,
            out_channels=in_channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            transformer_layers_per_block=depths,
            # diffusers reads the number of heads from a parameter of this name
            attention_head_dim=tuple(width // dim for width, dim in zip(widths, head_dims, strict=True)),
            cross_attention_dim=text_dim,
            norm_num_groups=groups,
            resnet_time_scale_shift="scale_shift" if adaptive_norm else "default",
            use_linear_projection=linear_projection,
            class_embed_type=None if pooled_dim is None else "simple_projection",
            projection_class_embeddings_input_dim=pooled_dim,
        )
        self.network.set_attn_processor(AttentionProcessor())
        nn.init.zeros_(self.network.conv_out.weight)
        nn.init.zeros_(self.network.conv_out.bias)

    @property
    def tap_names(self) -> list[str]:
        downs, ups = len(self.network.down_blocks), len(self.network.up_blocks)
        return [*(f"down{n}" for n in range(1, downs + 1)), "mid", *(f"up{n}" for n in range(1, ups + 1))]

    @property
    def depths(self) -> tuple[str, str]:
        """The end of the way down and the middle, both at the lowest resolution."""
        return f"down{len(self.network.down_blocks)}", "mid"

    def tap_width(self, tap: str) -> int:
        """Channels of what leaves that part of the network.

        Raises:
            ValueError: there is no such tap.
        """
        self._check_taps([tap])
        widths = list(self.network.config.block_out_channels)
        return dict(zip(self.tap_names, [*widths, widths[-1], *reversed(widths)], strict=True))[tap]

    def forward(
        self, x: Tensor, t: Tensor, cond: Condition | None = None, taps: Sequence[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The raw network output and the hidden states that were asked for.

        Args:
            x: noisy latents, (B, C, H, W).
            t: scaled times, (B,).
            cond: the condition, B rows.
            taps: "down1".., "mid", "up1"..: what leaves that part of the network, (B, its H W, its channels).
        """
        cond = needed(cond)
        tokens = text_tokens(cond, self.text_dim)
        pooled = None if self.pooled_dim is None else pooled_text(cond, self.pooled_dim)
        if self.norm_text:
            tokens, pooled = plain_norm(tokens), None if pooled is None else plain_norm(pooled)
        with self._recorded(taps) as hidden:
            out = self.network(
                x,
                t,
                encoder_hidden_states=tokens,
                encoder_attention_mask=cond.mask,
                class_labels=pooled,
                return_dict=False,
            )[0]
        return out, hidden

    @contextmanager
    def _recorded(self, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Collects the outputs of the tapped parts while the network runs inside the context."""
        self._check_taps(taps)
        hidden: dict[str, Tensor] = {}
        parts = dict(zip(self.tap_names, self._parts(), strict=True))
        handles = [parts[tap].register_forward_hook(_keep(hidden, tap)) for tap in taps]
        try:
            yield hidden
        finally:
            for handle in handles:
                handle.remove()

    def _check_taps(self, taps: Sequence[str]) -> None:
        unknown = [tap for tap in taps if tap not in self.tap_names]
        if unknown:
            raise ValueError(f"unknown taps {unknown}: this model has {', '.join(self.tap_names)}")

    def _parts(self) -> list[nn.Module]:
        return [*self.network.down_blocks, self.network.mid_block, *self.network.up_blocks]


class AttentionProcessor:
    """diffusers' attention with the kernel chosen by `attend`; for self- and cross-attention on tokens."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """hidden_states (B, N, D); encoder_hidden_states (B, L, P); attention_mask a bias (B, 1, L)."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = None if attention_mask is None else attention_mask[:, 0] > -1
        projected = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (split_heads(part, attn.heads) for part in projected)
        mixed = attend(q, k, v, mask)
        return attn.to_out[0](merge_heads(mixed))


def _keep(hidden: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output[0] if isinstance(output, tuple) else output  # a down block also returns its skips
        hidden[name] = states.flatten(2).transpose(1, 2)

    return hook


def _check(
    widths: Sequence[int], attention: Sequence[bool], head_dims: Sequence[int], groups: int, input_size: int
) -> None:
    if not len(widths) == len(attention) == len(head_dims):
        raise ValueError(
            "model.widths, model.attention and a list as model.head_dim need one entry per resolution, got "
            f"{list(widths)}, {list(attention)} and {list(head_dims)}"
        )
    for width, dim in zip(widths, head_dims, strict=True):
        if width % dim or width % groups:
            raise ValueError(
                f"model.widths must be divisible by head_dim={dim} and groups={groups}, got {width}"
            )
    if input_size % 2 ** (len(widths) - 1):
        raise ValueError(
            f"latents of {input_size} cannot be halved {len(widths) - 1} times: change model.widths"
        )
