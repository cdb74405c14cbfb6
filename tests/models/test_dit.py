"""The DiT: published sizes, adaLN-Zero start, text that is masked, taps, other resolutions."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.dit import CONTEXTS, DiT, label_condition

SHAPES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
# size, patch, latent edge: parameters without the position table, 10^9 multiply-accumulates of one picture
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
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "input_size": 8, "patch_size": 2, "width": 32, "depth": 4, "heads": 4}
    return DiT(**{**sizes, "text_dim": 12, "pooled_dim": 6, **options})


def trained(**options):
    """A network whose zero layers have been filled, as after training."""
    network = small(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def condition(rows=2, length=5):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(length) < torch.tensor([3, 5, 1, 4])[:rows, None]
    tokens = torch.randn(rows, length, 12, generator=generator)
    return Condition(tokens, mask, torch.randn(rows, 6, generator=generator))


def noisy(rows=2, edge=8):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, 4, edge, edge, generator=generator), torch.tensor([900.0, 30.0, 500.0, 1.0])[
        :rows
    ]


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


@pytest.mark.parametrize("context", CONTEXTS)
def test_masked_text_has_no_influence_and_padding_changes_nothing(context):
    network = trained(context=context)
    x, t = noisy()
    cond = condition()
    out = network(x, t, cond)[0]
    garbage = torch.where(cond.mask[..., None], cond.tokens, 1e3 * torch.randn_like(cond.tokens))
    longer = Condition(garbage, cond.mask, cond.pooled).padded(9)
    torch.testing.assert_close(network(x, t, longer)[0], out, atol=1e-5, rtol=1e-5)
    visible = Condition(garbage, torch.ones_like(cond.mask), cond.pooled)
    assert not torch.allclose(network(x, t, visible)[0], out, atol=1e-2)


@pytest.mark.parametrize("context", CONTEXTS)
def test_text_and_pooled_text_both_change_the_output(context):
    network = trained(context=context)
    x, t = noisy()
    cond = condition()
    out = network(x, t, cond)[0]
    other = Condition(cond.tokens.flip(0), cond.mask.flip(0), cond.pooled)
    assert not torch.allclose(network(x, t, other)[0], out, atol=1e-3)
    other = Condition(cond.tokens, cond.mask, cond.pooled.flip(0))
    assert not torch.allclose(network(x, t, other)[0], out, atol=1e-3)


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_order_of_text_tokens_is_left_to_the_text_encoder(context):
    network = trained(context=context)
    x, t = noisy()
    cond = condition()
    order = torch.tensor([4, 2, 0, 1, 3])
    permuted = Condition(cond.tokens[:, order], cond.mask[:, order], cond.pooled)
    torch.testing.assert_close(network(x, t, permuted)[0], network(x, t, cond)[0], atol=1e-5, rtol=1e-5)


def test_without_positions_permuted_patches_give_a_permuted_output():
    network = trained(context="kv", patch_size=1)
    network.positions.table.zero_()
    x, t = noisy()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    permuted = x.flatten(2)[..., order].view_as(x)
    out = network(x, t, condition())[0].flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(network(permuted, t, condition())[0], out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_sample_does_not_depend_on_the_others_in_its_batch(context):
    network = trained(context=context)
    x, t = noisy(4)
    cond = condition(4)
    whole = network(x, t, cond)[0]
    for row in range(4):
        alone = network(x[row : row + 1], t[row : row + 1], cond[row : row + 1])[0]
        torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-5, rtol=1e-5)


def test_taps_are_the_image_tokens_after_the_named_blocks():
    network = trained(context="joint")
    x, t = noisy()
    out, taps = network(x, t, condition(), taps=("block4", "block2"))
    assert {name: tuple(value.shape) for name, value in taps.items()} == {
        "block4": (2, 16, 32),
        "block2": (2, 16, 32),
    }
    assert torch.equal(out, network(x, t, condition())[0])
    assert not torch.allclose(taps["block2"], taps["block4"])
    with pytest.raises(ValueError, match=r"block5.*block1 to block4"):
        network(x, t, condition(), taps=("block5",))


@pytest.mark.parametrize("shape", [(4, 4), (12, 8), (16, 16)])
def test_any_grid_that_the_patch_divides_is_accepted(shape):
    x = torch.randn(2, 4, *shape)
    out, _ = trained()(x, torch.tensor([10.0, 700.0]), condition())
    assert out.shape == x.shape and bool(out.isfinite().all())


def test_labels_and_the_null_label_change_the_output_and_variance_doubles_the_channels():
    network = trained(text_dim=None, pooled_dim=None, num_classes=3, learn_sigma=True)
    x, t = noisy(1)
    outs = [network(x, t, label_condition(torch.tensor([label])))[0] for label in range(4)]
    assert outs[0].shape == (1, 8, 8, 8)
    assert all(not torch.allclose(outs[i], outs[j], atol=1e-4) for i in range(4) for j in range(i))


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


@pytest.mark.parametrize("context", CONTEXTS)
def test_bf16_autocast_stays_close_and_keeps_stream_and_output_in_float32(context):
    network = trained(context=context)
    x, t = noisy()
    exact = network(x, t, condition())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, taps = network(x, t, condition(), taps=["block2"])
    assert out.dtype == taps["block2"].dtype == torch.float32
    assert (out - exact).norm() < 2e-2 * exact.norm()


def test_state_dict_rebuilds_the_same_network():
    first, second = trained(), small()
    second.load_state_dict(first.state_dict())
    x, t = noisy()
    assert torch.equal(first(x, t, condition())[0], second(x, t, condition())[0])
    assert not any("positions" in name for name in first.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30}, r"model\.width.*model\.heads"),
        ({"patch_size": 3}, r"model\.patch_size"),
        ({"context": "cat"}, r"model\.context.*joint"),
        ({"depth": 0}, r"model\.depth"),
        ({"num_classes": 10}, r"model\.num_classes"),
    ],
)
def test_unfit_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_conditions_that_do_not_fit_are_refused_by_name():
    network, cond = small(), condition()
    x, t = noisy()
    with pytest.raises(ValueError, match="null condition"):
        small(pooled_dim=None)(x, t, None)
    with pytest.raises(ValueError, match=r"model\.pooled_dim"):
        network(x, t, Condition(cond.tokens, cond.mask))
    with pytest.raises(ValueError, match=r"model\.text_dim=12"):
        network(x, t, Condition(torch.zeros(2, 5, 7), cond.mask, cond.pooled))


@pytest.mark.parametrize("context", CONTEXTS)
def test_dropping_every_condition_is_the_same_as_giving_the_null_condition(context):
    network = trained(context=context)
    x, t = noisy()
    null = Condition(torch.ones(1, 2, 12), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 6))
    dropped = condition().where(torch.tensor([False, False]), null.expand(2))
    explicit = network(x, t, null.expand(2))[0]
    torch.testing.assert_close(network(x, t, dropped)[0], explicit, atol=1e-5, rtol=1e-5)
