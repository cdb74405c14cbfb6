"""The U-Net: published sizes and outputs, adaptive norms, taps; what all networks share is in test_families."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.unet import UNet
from tests.models.families import condition, noisy, small, trained

SD15 = {
    "in_channels": 4,
    "input_size": 64,
    "widths": [320, 640, 1280, 1280],
    "layers": 2,
    "attention": [True, True, True, False],
    "head_dim": [40, 80, 160, 160],
    "text_dim": 768,
    "linear_projection": False,
    "norm_text": False,
}


def test_stable_diffusion_1_has_its_published_size_and_its_tensors():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network, published = UNet(**SD15), UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        cond = Condition(torch.zeros(1, 77, 768), torch.ones(1, 77, dtype=torch.bool))
        cost = count.gmac(lambda: network(torch.zeros(1, 4, 64, 64), torch.zeros(1), cond))
    assert count.parameters(network) == 859_520_964
    assert cost == pytest.approx(401.6, abs=0.05)
    shapes = {name: tensor.shape for name, tensor in network.network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published.state_dict().items()}


@torch.no_grad()
def test_published_weights_give_the_published_output():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    published = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=8,
    ).eval()
    options = {"attention": [True, False], "head_dim": [8, 16], "pooled_dim": None}
    network = small("unet", **options, linear_projection=False, norm_text=False).eval()
    network.network.load_state_dict(published.state_dict())
    x, t = noisy()
    cond = condition()
    expected = published(x, t, cond.tokens, encoder_attention_mask=cond.mask, return_dict=False)[0]
    torch.testing.assert_close(network(x, t, cond)[0], expected, atol=1e-5, rtol=1e-5)


def test_with_adaptive_norms_time_scales_features_after_the_normalisation():
    block = small("unet", adaptive_norm=True).network.down_blocks[0].resnets[0]
    x, told = torch.randn(2, 16, 8, 8), torch.randn(2, 64)
    with torch.no_grad():
        scale, shift = block.time_emb_proj(block.nonlinearity(told))[..., None, None].chunk(2, 1)
        inner = block.conv1(block.nonlinearity(block.norm1(x)))
        inner = block.nonlinearity(block.norm2(inner) * (1 + scale) + shift)
        torch.testing.assert_close(block(x, told), x + block.conv2(inner))


def test_our_attention_computes_what_the_library_computes():
    from diffusers.models.attention_processor import AttnProcessor

    network = trained("unet")
    x, t = noisy()
    ours = network(x, t, condition())[0]
    network.network.set_attn_processor(AttnProcessor())
    torch.testing.assert_close(ours, network(x, t, condition())[0], atol=1e-5, rtol=1e-5)


def test_taps_are_the_states_that_leave_the_named_parts_and_no_hook_stays():
    network = trained("unet")
    x, t = noisy()
    out, taps = network(x, t, condition(), taps=("mid", "down1", "up2"))
    shapes = {name: tuple(value.shape) for name, value in taps.items()}
    assert shapes == {"mid": (2, 16, 32), "down1": (2, 16, 16), "up2": (2, 64, 16)}
    assert torch.equal(out, network(x, t, condition())[0])
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match=r"down3.*down1, down2, mid"):
        network(x, t, condition(), taps=("down3",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": [True]}, r"model\.attention"),
        ({"head_dim": 10}, "head_dim=10"),
        ({"head_dim": [8]}, r"model\.head_dim"),
        ({"groups": 32}, "groups=32"),
        ({"input_size": 7}, r"model\.widths"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small("unet", **options)
