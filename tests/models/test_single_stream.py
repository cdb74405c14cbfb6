"""The single-stream transformer: published size, its block, its refiners, shared keys and values."""

import pytest
import torch
import torch.nn.functional as F

from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.blocks import SwiGLU
from t2ilab.models.single_stream import SandwichBlock, SingleStream
from tests.models.families import condition, noisy, small, trained

LUMINA = {
    "in_channels": 16,
    "input_size": 128,
    "patch_size": 2,
    "width": 2304,
    "depth": 26,
    "heads": 24,
    "kv_heads": 8,
    "text_refiners": 2,
    "image_refiners": 2,
    "text_dim": 2304,
    "pooled_dim": None,
    "mlp_ratio": 4.0,
    "rope_theta": 10_000.0,
}


def test_the_size_is_that_of_lumina_image_2():
    with torch.device("meta"):
        assert count.parameters(SingleStream(**LUMINA)) == 2_609_769_152


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("modulated", [True, False])
def test_a_block_computes_its_formula(modulated):
    block = SandwichBlock(32, 4, kv_heads=2, hidden=48, signal=8 if modulated else None)
    x, mask = torch.randn(2, 6, 32), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    vectors = torch.randn(2, 1, 128) if modulated else None
    scale_1, gate_1, scale_2, gate_2 = vectors.chunk(4, -1) if modulated else (0, None, 0, None)
    open_1, open_2 = (gate_1.tanh(), gate_2.tanh()) if modulated else (1, 1)
    expected = x + open_1 * rms(block.attention(rms(x) * (1 + scale_1), mask))
    expected = expected + open_2 * rms(block.mlp(rms(expected) * (1 + scale_2)))
    torch.testing.assert_close(block(x, vectors, mask, None), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_swiglu_gates_one_half_by_the_other():
    layer, x = SwiGLU(6, 5), torch.randn(3, 6)
    gate, up = layer.hidden.weight[:5], layer.hidden.weight[5:]
    torch.testing.assert_close(layer(x), (F.silu(x @ gate.T) * (x @ up.T)) @ layer.out.weight.T)


def test_image_blocks_are_the_identity_at_the_start():
    network = small("single")
    x, t = noisy()
    _, taps = network(x, t, condition(), taps=["block1", "block4"])
    assert torch.equal(taps["block1"], taps["block4"])


def test_text_refiners_know_no_time_and_image_refiners_no_text():
    network = trained("single")
    seen = {}
    network.text_blocks[0].register_forward_hook(lambda m, i, out: seen.setdefault("text", []).append(out))
    network.image_blocks[0].register_forward_hook(lambda m, i, out: seen.setdefault("image", []).append(out))
    x, t = noisy()
    cond = condition()
    network(x, t, cond)
    network(x, t.flip(0), cond)
    network(x, t, Condition(cond.tokens.flip(0), cond.mask, cond.pooled))
    assert torch.equal(seen["text"][0], seen["text"][1])
    assert torch.equal(seen["image"][0], seen["image"][2])
    assert not torch.equal(seen["image"][0], seen["image"][1])
    assert not torch.equal(seen["text"][0], seen["text"][2])


def test_refiners_may_be_left_away():
    network = trained("single", text_refiners=0, image_refiners=0)
    assert count.parameters(network) < count.parameters(small("single"))
    assert network(*noisy(), condition())[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, r"model\.kv_heads"),
        ({"text_refiners": -1}, r"model\.text_refiners"),
        ({"image_refiners": -1}, r"model\.image_refiners"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small("single", **options)
