"""The U-Net: zero start, masked text, taps, the attention kernel."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.models.unet import UNet


def small(**options):
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "input_size": 8, "widths": [16, 32], "layers": 1, "attention": [False, True]}
    return UNet(**{**sizes, "head_dim": 8, "text_dim": 12, "pooled_dim": 6, "groups": 8, **options})


def trained(**options):
    network = small(**options)
    with torch.no_grad():
        network.network.conv_out.weight.normal_()
    return network.eval()


def condition():
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([3, 5])[:, None]
    return Condition(torch.randn(2, 5, 12, generator=generator), mask, torch.randn(2, 6, generator=generator))


def noisy():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([900.0, 30.0])


def test_output_is_exactly_zero_at_the_start_and_the_last_layer_learns_first():
    network = small()
    x, t = noisy()
    out = network(x, t, condition())[0]
    assert out.shape == x.shape and not out.any()
    (out - x).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"network.conv_out.weight", "network.conv_out.bias"}


def test_every_parameter_learns_once_the_last_layer_is_not_zero():
    network = trained()
    x, t = noisy()
    (network(x, t, condition())[0] - x).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_with_adaptive_norms_time_scales_features_after_the_normalisation():
    block = small(adaptive_norm=True).network.down_blocks[0].resnets[0]
    x, told = torch.randn(2, 16, 8, 8), torch.randn(2, 64)
    with torch.no_grad():
        scale, shift = block.time_emb_proj(block.nonlinearity(told))[..., None, None].chunk(2, 1)
        inner = block.conv1(block.nonlinearity(block.norm1(x)))
        inner = block.nonlinearity(block.norm2(inner) * (1 + scale) + shift)
        torch.testing.assert_close(block(x, told), x + block.conv2(inner))


def test_masked_text_has_no_influence_and_padding_changes_nothing():
    network, cond = trained(), condition()
    x, t = noisy()
    out = network(x, t, cond)[0]
    garbage = torch.where(cond.mask[..., None], cond.tokens, 1e3 * torch.randn_like(cond.tokens))
    longer = Condition(garbage, cond.mask, cond.pooled).padded(9)
    torch.testing.assert_close(network(x, t, longer)[0], out, atol=1e-5, rtol=1e-5)
    visible = Condition(garbage, torch.ones_like(cond.mask), cond.pooled)
    assert not torch.allclose(network(x, t, visible)[0], out, atol=1e-2)


def test_text_pooled_text_and_time_change_the_output():
    network, cond = trained(), condition()
    x, t = noisy()
    out = network(x, t, cond)[0]
    others = [
        network(x, t, Condition(cond.tokens.flip(0), cond.mask.flip(0), cond.pooled))[0],
        network(x, t, Condition(cond.tokens, cond.mask, cond.pooled.flip(0)))[0],
        network(x, t.flip(0), cond)[0],
    ]
    assert all(not torch.allclose(out, other, atol=1e-3) for other in others)


def test_our_attention_computes_what_the_library_computes():
    from diffusers.models.attention_processor import AttnProcessor

    network = trained()
    x, t = noisy()
    ours = network(x, t, condition())[0]
    network.network.set_attn_processor(AttnProcessor())
    torch.testing.assert_close(ours, network(x, t, condition())[0], atol=1e-5, rtol=1e-5)


def test_taps_are_the_states_that_leave_the_named_parts_and_no_hook_stays():
    network = trained()
    x, t = noisy()
    out, taps = network(x, t, condition(), taps=("mid", "down1", "up2"))
    shapes = {name: tuple(value.shape) for name, value in taps.items()}
    assert shapes == {"mid": (2, 16, 32), "down1": (2, 16, 16), "up2": (2, 64, 16)}
    assert torch.equal(out, network(x, t, condition())[0])
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match=r"down3.*down1, down2, mid"):
        network(x, t, condition(), taps=("down3",))


def test_bf16_autocast_stays_close_to_float32():
    network = trained()
    x, t = noisy()
    exact = network(x, t, condition())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x, t, condition())[0]
    assert (out - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": [True]}, r"model\.attention"),
        ({"head_dim": 10}, "head_dim=10"),
        ({"groups": 32}, "groups=32"),
        ({"input_size": 7}, r"model\.widths"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_conditions_that_do_not_fit_are_refused_by_name():
    network, cond = small(), condition()
    x, t = noisy()
    with pytest.raises(ValueError, match="null condition"):
        network(x, t, None)
    with pytest.raises(ValueError, match=r"model\.pooled_dim"):
        network(x, t, Condition(cond.tokens, cond.mask))
    with pytest.raises(ValueError, match=r"model\.text_dim=12"):
        network(x, t, Condition(torch.zeros(2, 5, 7), cond.mask, cond.pooled))
