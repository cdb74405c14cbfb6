"""What holds for every network: its start, its text, its batch, its taps, its refusals."""

import pytest
import torch

from t2ilab.core.types import Condition
from tests.models.families import FAMILIES, TRANSFORMERS, condition, noisy, small, trained

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
every = pytest.mark.parametrize("name", FAMILIES)
every_transformer = pytest.mark.parametrize("name", TRANSFORMERS)


@every
def test_output_is_exactly_zero_at_the_start(name):
    x, t = noisy()
    out = small(name)(x, t, condition())[0]
    assert out.shape == x.shape and not out.any()


@every
def test_gradients_reach_everything_within_a_few_steps_beginning_at_the_last_layer(name):
    """The third backward pass is the first one behind two updates, which opened the gates.

    In the MM-DiT the gates of the text matter only once those of the image are open: one step more.
    """
    network = small(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, t = noisy()
    reached = []
    for _ in range(4 if "mmdit" in name else 3):
        optimizer.zero_grad()
        (network(x, t, condition())[0] - x).square().mean().backward()
        reached.append({n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    last = "network.conv_out" if name == "unet" else "final"
    assert reached[0] == {f"{last}.weight", f"{last}.bias"}
    assert reached[0] < reached[1] <= reached[2]
    idle = {"blocks.3.text.attention.q_norm.weight"}  # of queries whose answers are not used
    missing = {n for n, _ in network.named_parameters()} - reached[-1]
    assert missing == (idle if name == "mmdit sd3" else set())
    assert all(parameter.grad is not None for parameter in network.parameters())


@every
def test_masked_text_has_no_influence_and_padding_changes_nothing(name):
    network, cond = trained(name), condition()
    x, t = noisy()
    out = network(x, t, cond)[0]
    garbage = torch.where(cond.mask[..., None], cond.tokens, 1e3 * torch.randn_like(cond.tokens))
    longer = Condition(garbage, cond.mask, cond.pooled).padded(9)
    torch.testing.assert_close(network(x, t, longer)[0], out, **CLOSE)
    visible = Condition(garbage, torch.ones_like(cond.mask), cond.pooled)
    assert not torch.allclose(network(x, t, visible)[0], out, atol=1e-2)


@every
def test_text_pooled_text_and_time_all_change_the_output(name):
    network, cond = trained(name), condition()
    x, t = noisy()
    out = network(x, t, cond)[0]
    others = [
        network(x, t, Condition(cond.tokens.flip(0), cond.mask.flip(0), cond.pooled))[0],
        network(x, t, Condition(cond.tokens, cond.mask, cond.pooled.flip(0)))[0],
        network(x, t.flip(0), cond)[0],
    ]
    assert all(not torch.allclose(out, other, atol=1e-3) for other in others)


@every
def test_the_order_of_text_tokens_is_left_to_the_text_encoder(name):
    network, cond = trained(name), condition()
    x, t = noisy()
    order = torch.tensor([4, 2, 0, 1, 3])
    permuted = Condition(cond.tokens[:, order], cond.mask[:, order], cond.pooled)
    torch.testing.assert_close(network(x, t, permuted)[0], network(x, t, cond)[0], **CLOSE)


@every
def test_a_sample_does_not_depend_on_the_others_in_its_batch(name):
    network, cond = trained(name), condition(4)
    x, t = noisy(4)
    whole = network(x, t, cond)[0]
    for row in range(4):
        alone = network(x[row : row + 1], t[row : row + 1], cond[row : row + 1])[0]
        torch.testing.assert_close(alone, whole[row : row + 1], **CLOSE)


@every
def test_dropping_every_condition_is_the_same_as_giving_the_null_condition(name):
    network = trained(name)
    x, t = noisy()
    generator = torch.Generator().manual_seed(3)
    tokens, pooled = torch.randn(1, 2, 12, generator=generator), torch.randn(1, 6, generator=generator)
    null = Condition(tokens, torch.ones(1, 2, dtype=torch.bool), pooled)
    dropped = condition().where(torch.tensor([False, False]), null.expand(2))
    explicit = network(x, t, null.expand(2))[0]
    torch.testing.assert_close(network(x, t, dropped)[0], explicit, **CLOSE)


@every
@pytest.mark.parametrize("shape", [(4, 4), (8, 12), (16, 16)])
def test_latents_of_any_height_and_width_are_accepted_and_places_matter(name, shape):
    network = trained(name)
    x, t = noisy(shape=shape)
    out = network(x, t, condition())[0]
    assert out.shape == x.shape and bool(out.isfinite().all())
    mirrored = network(x.flip(3), t, condition())[0].flip(3)
    assert not torch.allclose(mirrored, out, atol=1e-2)


@every_transformer
def test_the_place_of_every_patch_is_known_in_both_directions(name):
    """Patches that differ in nothing but their place get different outputs, unless rotary positions have nothing
    to compare: so one patch is unlike the others."""
    network = trained(name)
    x, t = torch.zeros(1, 4, 8, 12), torch.tensor([500.0])
    x[:, :, :2, :2] = 3.0
    out = network(x, t, condition(1))[0][0, :, ::2, ::2]  # a pixel of each patch
    assert not torch.allclose(out[:, 1:, 1:], out[:, 1:, 1:].flip(2), atol=1e-3)
    assert not torch.allclose(out[:, 1:, 1:], out[:, 1:, 1:].flip(1), atol=1e-3)


@every_transformer
def test_taps_are_the_image_tokens_after_the_named_blocks(name):
    network = trained(name)
    x, t = noisy()
    out, taps = network(x, t, condition(), taps=("block4", "block2"))
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "block4": (2, 16, 32),
        "block2": (2, 16, 32),
    }
    assert torch.equal(out, network(x, t, condition())[0])
    assert not torch.allclose(taps["block2"], taps["block4"])
    with pytest.raises(ValueError, match=r"block5.*block1 to block4"):
        network(x, t, condition(), taps=("block5",))


@every
def test_a_network_says_how_wide_its_taps_are_and_names_an_early_and_a_late_one(name):
    network = trained(name)
    early, late = network.depths
    _, taps = network(*noisy(), condition(), taps=(early, late))
    assert taps[early].shape == (2, taps[late].shape[1], network.tap_width(early)), "not of one resolution"
    assert not torch.equal(taps[early], taps[late])
    with pytest.raises(ValueError, match="unknown taps"):
        network.tap_width("block99")


@every
def test_bf16_autocast_stays_close_and_keeps_stream_and_output_in_float32(name):
    network = trained(name)
    x, t = noisy()
    tap = "mid" if name == "unet" else "block2"
    exact = network(x, t, condition())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, taps = network(x, t, condition(), taps=[tap])
    assert (out - exact).norm() < 2e-2 * exact.norm()
    if name != "unet":  # diffusers' class lets autocast choose
        assert out.dtype == taps[tap].dtype == torch.float32


@every
def test_state_dict_rebuilds_the_same_network_without_positions(name):
    first, second = trained(name), small(name).eval()
    second.load_state_dict(first.state_dict())
    x, t = noisy()
    assert torch.equal(first(x, t, condition())[0], second(x, t, condition())[0])
    assert not any("position" in key for key in first.state_dict())


@every
def test_conditions_that_do_not_fit_are_refused_by_name(name):
    network, cond = small(name), condition()
    x, t = noisy()
    with pytest.raises(ValueError, match="null condition"):
        network(x, t, None)
    with pytest.raises(ValueError, match=r"model\.text_dim=12"):
        network(x, t, Condition(torch.zeros(2, 5, 7), cond.mask, cond.pooled))
    with pytest.raises(ValueError, match=r"model\.pooled_dim=null"):
        network(x, t, Condition(cond.tokens, cond.mask))
    with pytest.raises(ValueError, match=r"model\.pooled_dim=6.*5 wide"):
        network(x, t, Condition(cond.tokens, cond.mask, torch.zeros(2, 5)))


@every
def test_without_a_pooled_vector_none_is_asked_for(name):
    network, cond = trained(name, pooled_dim=None), condition()
    x, t = noisy()
    out = network(x, t, Condition(cond.tokens, cond.mask))[0]
    assert torch.equal(out, network(x, t, cond)[0])


@every_transformer
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30}, r"model\.width.*model\.heads"),
        ({"patch_size": 3}, r"model\.patch_size"),
        ({"depth": 0}, r"model\.depth"),
        ({"heads": 0}, r"model\.heads"),
        ({"width": 18, "heads": 3, "kv_heads": 1}, r"divisible by 4"),
    ],
)
def test_unfit_sizes_are_refused_by_name(name, options, message):
    if name != "single":
        options = {key: value for key, value in options.items() if key != "kv_heads"}
    with pytest.raises(ValueError, match=message):
        small(name, **options)
    with pytest.raises(ValueError, match=r"8x9 input cannot be cut into patches of 2x2: .*model\.patch_size"):
        small(name)(torch.zeros(1, 4, 8, 9), torch.zeros(1), condition(1))
