"""The MM-DiT: published sizes and costs, two sets of weights, the text of the last block, positions."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.layers import modulate, plain_norm
from t2ilab.models.mmdit import MMDiT
from tests.models.families import condition, noisy, small, trained

# depth: parameters with the texts of Stable Diffusion 3; width 64 depth, depth heads
TABLE = {
    12: 254_784_064,
    15: 496_066_624,
    18: 856_159_552,
    24: 2_028_328_000,  # Stable Diffusion 3 medium
    30: 3_962_392_384,
    38: 8_056_617_792,
}


def published(depth, **options):
    sizes = {"in_channels": 16, "input_size": 128, "patch_size": 2, "text_dim": 4096, "pooled_dim": 2048}
    return MMDiT(**sizes, width=64 * depth, depth=depth, heads=depth, **options)


@pytest.mark.parametrize(("depth", "parameters"), TABLE.items())
def test_sizes_are_the_published_ones(depth, parameters):
    with torch.device("meta"):
        assert count.parameters(published(depth)) == parameters


def test_normalised_queries_and_keys_add_four_vectors_a_block():
    with torch.device("meta"):
        assert count.parameters(published(38, qk_norm=True)) == 8_056_627_520  # Stable Diffusion 3.5 large


@pytest.mark.parametrize(("pixels", "gmac"), [(256, 421.5), (512, 1053.7), (1024, 4452.2)])
def test_costs_of_stable_diffusion_3_with_333_text_tokens(pixels, gmac):
    with torch.device("meta"):
        network, x = published(24), torch.zeros(1, 16, pixels // 8, pixels // 8)
        cond = Condition(
            torch.zeros(1, 333, 4096), torch.ones(1, 333, dtype=torch.bool), torch.zeros(1, 2048)
        )
        assert count.gmac(lambda: network(x, torch.zeros(1), cond)) == pytest.approx(gmac, abs=0.05)


def test_blocks_are_the_identity_on_both_streams_at_the_start():
    block = small("mmdit").blocks[0]
    image, text, signal = torch.randn(2, 6, 32), torch.randn(2, 5, 32), torch.randn(2, 1, 32)
    mask = torch.ones(2, 11, dtype=torch.bool)
    out = block(image, text, block.modulations(signal), mask, None)
    assert torch.equal(out[0], image) and torch.equal(out[1], text)


@torch.no_grad()
def test_a_block_computes_its_formula_with_separate_weights_and_one_attention():
    block = trained("mmdit").blocks[0]
    image, text, signal = torch.randn(2, 6, 32), torch.randn(2, 5, 32), torch.randn(2, 1, 32)
    vectors = block.modulations(signal)
    parts = []
    for stream, x, own in zip((block.image, block.text), (image, text), vectors, strict=True):
        parts.append(stream.attention.qkv(modulate(plain_norm(x), own[0], own[1])))
    q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in torch.cat(parts, 1).chunk(3, -1))
    mixed = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    out = block(image, text, vectors, torch.ones(2, 11, dtype=torch.bool), None)
    for stream, x, own, found, result in zip(
        (block.image, block.text), (image, text), vectors, mixed.split([6, 5], 1), out, strict=True
    ):
        attended = x + own[2] * stream.attention.out(found)
        expected = attended + own[5] * stream.mlp(modulate(plain_norm(attended), own[3], own[4]))
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_the_text_of_the_last_block_gives_keys_and_values_only():
    network = trained("mmdit")
    last = network.blocks[-1].text
    assert last.mlp is None and last.attention.out is None
    x, t = noisy()
    out = network(x, t, condition())[0]
    with torch.no_grad():
        last.attention.qkv.weight[:32].normal_()  # of the queries
    assert torch.equal(network(x, t, condition())[0], out)
    with torch.no_grad():
        last.attention.qkv.weight[32:64].normal_()
    assert not torch.allclose(network(x, t, condition())[0], out, atol=1e-3)


def test_text_vectors_are_normalised_only_when_asked():
    x, t = noisy()
    cond = condition()
    louder = Condition(5 * cond.tokens + 1, cond.mask, 5 * cond.pooled + 1)
    for norm, same in ((True, True), (False, False)):
        network = trained("mmdit", norm_text=norm)
        outs = [network(x, t, given)[0] for given in (cond, louder)]
        assert torch.allclose(*outs, atol=1e-4) == same


def test_positions_cut_from_a_table_keep_the_middle_of_a_wider_image_in_its_place():
    network = small("mmdit", position_max=6, position_base=4)
    square, wide = network.positions(4, 4).view(4, 4, 32), network.positions(4, 6).view(4, 6, 32)
    assert torch.equal(wide[:, 1:5], square)
    with pytest.raises(ValueError, match=r"model\.position_max=6"):
        network(torch.zeros(1, 4, 8, 14), torch.zeros(1), condition(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, r"model\.activation.*gelu"),
        ({"positions": "none"}, r"model\.positions.*sincos, rope"),
        ({"position_max": 8}, r"model\.position_base"),
        ({"position_max": 8, "position_base": 4, "positions": "rope"}, r"model\.positions=sincos"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small("mmdit", **options)
