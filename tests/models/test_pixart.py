"""PixArt: published size and cost, the shared modulation, the cross-attention's start."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.layers import modulate, plain_norm
from t2ilab.models.pixart import PixArt
from tests.models.families import condition, noisy, small, trained


def test_the_largest_model_has_the_published_size_and_cost():
    sizes = {"in_channels": 4, "input_size": 64, "patch_size": 2, "width": 1152, "depth": 28, "heads": 16}
    with torch.device("meta"):
        network = PixArt(**sizes, text_dim=4096, learn_sigma=True)
        cond = Condition(torch.zeros(1, 300, 4096), torch.ones(1, 300, dtype=torch.bool))
        cost = count.gmac(lambda: network(torch.zeros(1, 4, 32, 32), torch.zeros(1), cond))
    assert count.parameters(network) == 610_856_096
    assert cost == pytest.approx(166.5, abs=0.05)


@torch.no_grad()
def test_a_block_computes_its_formula():
    network = trained("pixart")
    block = network.blocks[0]
    x, text, mask = torch.randn(2, 6, 32), torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    vectors = torch.randn(2, 6, 32)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
        (block.table[n] + vectors[:, n])[:, None] for n in range(6)
    )
    expected = x + gate_1 * block.attention(modulate(plain_norm(x), shift_1, scale_1), None)
    expected = expected + block.cross(expected, text, mask)
    expected = expected + gate_2 * block.mlp(modulate(plain_norm(expected), shift_2, scale_2))
    torch.testing.assert_close(block(x, vectors, text, mask), expected, atol=1e-5, rtol=1e-5)


def test_at_the_start_blocks_mix_the_image_but_read_no_text():
    network = small("pixart")
    x, t = noisy()
    cond = condition()
    _, taps = network(x, t, cond, taps=["block1", "block4"])
    assert not torch.allclose(taps["block1"], taps["block4"], atol=1e-2)
    _, others = network(x, t, Condition(cond.tokens.flip(0), cond.mask, cond.pooled), taps=["block4"])
    assert torch.equal(taps["block4"], others["block4"])


def test_one_layer_modulates_all_blocks_and_each_adds_a_table():
    network = small("pixart")
    names = {name for name, _ in network.named_parameters() if "modulation" in name or "table" in name}
    tables = {f"blocks.{number}.table" for number in range(4)} | {"final_table"}
    assert names == {"modulation.weight", "modulation.bias"} | tables


def test_positions_are_scaled_and_variance_doubles_the_channels():
    network = small("pixart", position_scale=2.0, learn_sigma=True)
    x, t = noisy()
    assert network(x, t, condition())[0].shape == (2, 8, 8, 8)
    plain = small("pixart").positions(4, 4).view(4, 4, 32)
    torch.testing.assert_close(network.positions(4, 4).view(4, 4, 32)[::2, ::2], plain[:2, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, r"model\.activation.*gelu"),
        ({"position_scale": 0.0}, r"model\.position_scale"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small("pixart", **options)
