"""The DiT: published sizes, adaLN-Zero start, labels, long skips; what all networks share is in test_families."""

import pytest
import torch

from t2ilab.models import count
from t2ilab.models.dit import CONTEXTS, DiT, label_condition
from t2ilab.models.rope import THETA, rotations
from tests.models import families
from tests.models.families import condition, noisy

SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
# size, patch, latent edge: parameters without the position table, 10^9 multiply-accumulates of one image
TABLE = [
    ("S", 2, 32, 32_865_056, 6.0557),
    ("S", 4, 32, 32_920_448, 1.4126),
    ("S", 8, 32, 33_142_016, 0.3580),
    ("B", 2, 32, 130_315_808, 23.0051),
    ("B", 4, 32, 130_426_496, 5.5652),
    ("B", 8, 32, 130_869_248, 1.4175),
    ("L", 2, 32, 457_840_672, 80.6976),
    ("L", 4, 32, 457_988_224, 19.6957),
    ("L", 8, 32, 458_578_432, 5.0114),
    ("XL", 2, 32, 674_834_720, 118.6214),
    ("XL", 4, 32, 675_000_704, 29.0437),
    ("XL", 8, 32, 675_664_640, 7.3924),
    ("XL", 2, 64, 674_834_720, 524.5383),
]


def small(**options):
    return families.small("dit joint", **options)


def trained(**options):
    return families.trained("dit joint", **options)


@pytest.mark.parametrize(("name", "patch", "edge", "parameters", "gmac"), TABLE)
def test_class_conditional_sizes_have_the_published_counts(name, patch, edge, parameters, gmac):
    depth, width, heads = SHAPES[name]
    with torch.device("meta"):
        network = DiT(
            in_channels=4,
            input_size=edge,
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            num_classes=1000,
            learn_sigma=True,
        )
        labels = label_condition(torch.zeros(1, dtype=torch.long))
        cost = count.gmac(lambda: network(torch.zeros(1, 4, edge, edge), torch.zeros(1), labels))
    assert count.parameters(network) == parameters == closed_form(depth, width, patch)
    assert network.positions.table.numel() == (edge // patch) ** 2 * width
    assert cost == pytest.approx(gmac, abs=6e-5)


def closed_form(depth, width, patch, channels=4, classes=1000):
    block = 18 * width**2 + 15 * width
    ends = (
        patch**2 * channels * width + width + 2 * width**2 + 2 * width + patch**2 * 2 * channels * (width + 1)
    )
    return depth * block + ends + 256 * width + width**2 + 2 * width + (classes + 1) * width


def test_text_in_the_sequence_leaves_the_size_of_the_largest_model_as_it_is():
    depth, width, heads = SHAPES["XL"]
    with torch.device("meta"):
        network = DiT(
            in_channels=4, input_size=32, patch_size=2, width=width, depth=depth, heads=heads, text_dim=4096
        )
    assert count.parameters(network) == pytest.approx(675e6, rel=0.01)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("skips", [False, True])
def test_output_is_exactly_zero_and_blocks_are_the_identity_at_the_start(context, skips):
    network = small(context=context, skips=skips, qk_norm=True)
    x, t = noisy()
    out, taps = network(x, t, condition(), taps=["block1", "block4"])
    assert out.shape == x.shape and not out.any()
    assert torch.equal(taps["block1"], taps["block4"])


@pytest.mark.parametrize("context", CONTEXTS)
def test_gradients_reach_the_last_layer_first_then_the_gates_then_everything(context):
    network = small(context=context)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, t = noisy()
    reached = []
    for _ in range(3):
        optimizer.zero_grad()
        (network(x, t, condition())[0] - x).square().sum().backward()
        reached.append({n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    gates = {f"blocks.{i}.modulation.{part}" for i in range(4) for part in ("weight", "bias")}
    ends = {
        f"{name}.{part}" for name in ("final", "final_modulation", "patch_in") for part in ("weight", "bias")
    }
    silent = {f"blocks.{i}.cross.out.{part}" for i in range(4) for part in ("weight", "bias")}
    assert reached[0] == {"final.weight", "final.bias"}
    assert reached[1] == gates | ends | (silent if context == "cross" else set())
    assert reached[2] == {name for name, _ in network.named_parameters()}


def test_without_positions_permuted_patches_give_a_permuted_output():
    network = trained(context="kv", patch_size=1)
    network.positions.table.zero_()
    x, t = noisy()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    permuted = x.flatten(2)[..., order].view_as(x)
    out = network(x, t, condition())[0].flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(network(permuted, t, condition())[0], out, atol=1e-5, rtol=1e-5)


def test_with_rotary_positions_and_no_text_an_image_moved_as_a_whole_gives_the_same_logits():
    """Only differences of places count: rows and columns that are appended in front change nothing in attention."""
    attention = trained(context="kv", positions="rope").blocks[0].attention
    x = torch.randn(1, 12, 32)
    large = rotations(8, 5, 6, theta=THETA).view(5, 6, 4)
    first, moved = (large[i : i + 3, j : j + 4].reshape(12, 4) for i, j in ((0, 0), (2, 1)))
    torch.testing.assert_close(
        attention(x, None, rotation=first), attention(x, None, rotation=moved), atol=1e-5, rtol=0
    )
    assert not torch.allclose(attention(x, None, rotation=first), attention(x, None), atol=1e-3)


def test_labels_and_the_null_label_change_the_output_and_variance_doubles_the_channels():
    network = trained(text_dim=None, pooled_dim=None, num_classes=3, learn_sigma=True)
    x, t = noisy(1)
    outs = [network(x, t, label_condition(torch.tensor([label])))[0] for label in range(4)]
    assert outs[0].shape == (1, 8, 8, 8)
    assert all(not torch.allclose(outs[i], outs[j], atol=1e-4) for i in range(4) for j in range(i))


@torch.no_grad()
def test_the_gelu_of_the_published_weights_differs_little_from_the_exact_one():
    exact, published = trained(), trained(activation="gelu_tanh")
    published.load_state_dict(exact.state_dict())
    one, other = (network(*noisy(), condition())[0] for network in (exact, published))
    assert 0 < float((one - other).abs().max()) < 1e-2 * float(one.abs().max())


def test_long_skips_cost_nothing_when_off_and_carry_early_tokens_when_on():
    plain, skipping = small(), small(skips=True)
    assert count.parameters(skipping) - count.parameters(plain) == 2 * (2 * 32 * 32 + 32)
    network = trained(skips=True)
    x, t = noisy()
    out = network(x, t, condition())[0]
    with torch.no_grad():
        network.blocks[3].skip.weight.zero_()
    assert not torch.allclose(network(x, t, condition())[0], out, atol=1e-4)


def test_an_odd_depth_with_skips_connects_its_outer_blocks():
    network = trained(depth=5, skips=True)
    assert [block.skip is not None for block in network.blocks] == [False, False, False, True, True]
    assert network(*noisy(), condition())[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "cat"}, r"model\.context.*joint"),
        ({"activation": "relu"}, r"model\.activation.*gelu_tanh"),
        ({"positions": "none"}, r"model\.positions.*sincos, rope"),
        ({"num_classes": 10}, r"model\.num_classes"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
