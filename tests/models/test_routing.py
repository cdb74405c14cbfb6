"""Token routing: what passes the blocks, what comes back, what nobody hears of, and what is refused."""

import functools

import pytest
import torch

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.models import count
from t2ilab.models.layers import patchify
from t2ilab.models.routing import SPRINT, TREAD, Masking, NoRouting, pick, put
from tests.models.families import condition, noisy, small, trained

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PLACES = {"first": None, "last": None}
RULES = {
    "tread": functools.partial(TREAD, share=0.5, **PLACES),
    "sprint": functools.partial(SPRINT, share=0.75, group=2, path_drop=0.5, **PLACES),
    "masking": functools.partial(Masking, share=0.75, first=None),
}
KEPT = torch.tensor([[1, 2, 7, 9, 12], [0, 5, 6, 14, 15]])  # of 16
LEFT_OUT = torch.tensor([[n for n in range(16) if n not in row] for row in KEPT.tolist()])
every_transformer = pytest.mark.parametrize(
    "name", ["dit joint rope", "dit kv", "dit kv rope", "dit cross", "mmdit rope", "pixart", "single"]
)
every_rule = pytest.mark.parametrize("rule", RULES)


def without_skips(name):
    """Options of a network without the long skips, which change tokens between the blocks, too."""
    return {"skips": False} if name == "dit kv" else {}


def network_with(name, rule, *, skips=False):
    """In training mode, with no layer at zero; long skips cannot be had with masking."""
    options = {} if skips and rule != "masking" else without_skips(name)
    return trained(name, **options, routing=RULES[rule]).train()


def run(network, **routed):
    return network(*noisy(), condition(), **routed)[0]


def stations(network, **routed):
    """Image tokens behind block 1, behind block 3 and before block 4; blocks 2 and 3 are those left out."""
    seen = {}

    def image(value):
        return value[0] if isinstance(value, tuple) else value

    def note(name, value):
        seen[name] = image(value)

    handles = [
        network.blocks[0].register_forward_hook(lambda m, i, out: note("before", out)),
        network.blocks[2].register_forward_hook(lambda m, i, out: note("passed", out)),
        network.blocks[3].register_forward_pre_hook(lambda m, inputs: note("behind", inputs)),
    ]
    out = run(network, **routed)
    for handle in handles:
        handle.remove()
    passed = seen["passed"][:, : KEPT.shape[1] if routed else 16]
    return seen["before"], passed, seen["behind"], out


@every_transformer
@every_rule
def test_keeping_all_tokens_is_exactly_the_network_without_a_rule(name, rule):
    network = network_with(name, rule, skips=True)
    everybody = torch.arange(16).expand(2, -1)
    routed = run(network, kept=everybody)
    assert torch.equal(routed, run(network))
    assert torch.equal(routed, run(network.eval()))
    if rule != "sprint":
        assert torch.equal(routed, run(trained(name, **(without_skips(name) if rule == "masking" else {}))))


@every_transformer
@every_rule
def test_in_evaluation_all_tokens_pass_whatever_is_given(name, rule):
    network = network_with(name, rule).eval()
    bypass = torch.tensor([True, False])
    assert torch.equal(run(network, kept=KEPT, bypass=bypass), run(network))
    assert not torch.equal(run(network.train(), kept=KEPT, bypass=bypass), run(network))


@every_transformer
@every_rule
def test_the_order_in_which_the_kept_tokens_are_named_does_not_matter(name, rule):
    network = network_with(name, rule, skips=True)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(run(network, kept=KEPT[:, order]), run(network, kept=KEPT), **CLOSE)
    assert not torch.allclose(run(network, kept=KEPT.flip(0)), run(network, kept=KEPT), atol=1e-3)


@every_transformer
def test_tokens_that_tread_leaves_out_come_back_bit_for_bit_and_the_others_as_the_blocks_made_them(name):
    before, passed, behind, _ = stations(network_with(name, "tread"), kept=KEPT)
    assert torch.equal(pick(behind, LEFT_OUT), pick(before, LEFT_OUT))
    assert torch.equal(pick(behind, KEPT), passed)
    assert not torch.allclose(pick(behind, KEPT), pick(before, KEPT), atol=1e-2)


@every_transformer
def test_no_gradient_passes_the_skipped_blocks_from_or_to_a_token_left_out(name):
    before, _, behind, _ = stations(network_with(name, "tread"), kept=KEPT)
    (grad,) = torch.autograd.grad(pick(behind, KEPT).square().sum(), before, retain_graph=True)
    grad = grad[:, :16]
    assert not pick(grad, LEFT_OUT).any()
    assert bool(pick(grad, KEPT).abs().sum(2).all())
    (own,) = torch.autograd.grad(pick(behind, LEFT_OUT).sum(), before)
    assert torch.equal(own[:, :16], put(torch.ones_like(grad), KEPT, torch.zeros(2, 5, 32)))


@every_transformer
def test_sprint_fills_with_the_mask_token_and_joins_with_the_tokens_before(name):
    network = network_with(name, "sprint")
    bypass = torch.tensor([False, True])
    before, passed, behind, _ = stations(network, kept=KEPT, bypass=bypass)
    rule = network.routing
    deep = rule.mask_token.expand(2, 16, 32).clone()
    deep[0, KEPT[0]] = passed[0]  # the second row is bypassed
    one, other = rule.fuse.weight.split(32, 1)
    expected = deep @ one.T + before[:, :16] @ other.T + rule.fuse.bias
    torch.testing.assert_close(behind[:, :16], expected, **CLOSE)


@every_transformer
def test_sprint_joins_both_ways_in_evaluation_too(name):
    network = network_with(name, "sprint").eval()
    before, passed, behind, _ = stations(network)
    expected = network.routing.fuse(torch.cat([passed, before[:, :16]], -1))
    torch.testing.assert_close(behind[:, :16], expected, **CLOSE)


def test_a_new_network_with_sprint_is_the_identity_and_halves_what_it_left_out():
    network = small("dit joint", routing=RULES["sprint"]).train()
    before, _, behind, out = stations(network, kept=KEPT)
    assert not out.any()
    assert torch.equal(pick(behind, KEPT), pick(before, KEPT))
    assert torch.equal(pick(behind, LEFT_OUT), pick(before, LEFT_OUT) / 2)
    before, _, behind, _ = stations(network)
    assert torch.equal(behind, before)


@every_transformer
def test_masked_tokens_have_an_output_of_zero_and_no_influence_behind_the_mixer(name):
    network = network_with(name, "masking")
    before, _, behind, out = stations(network, kept=KEPT)
    said = patchify(out, 2)
    assert not pick(said, LEFT_OUT).any() and bool(pick(said, KEPT).all())
    grads = torch.autograd.grad(out.square().sum(), before)[0][:, :16]
    assert not pick(grads, LEFT_OUT).any() and bool(pick(grads, KEPT).abs().sum(2).all())
    assert behind.shape[1] - 5 in (0, 5), "five image tokens, and text where it stands in the sequence"


def test_masked_places_are_those_of_the_kept_patches():
    network = network_with("dit joint", "masking")
    x, _ = noisy()
    seen = network.visible(x, KEPT)
    assert seen.shape == (2, 1, 8, 8) and seen.dtype == torch.bool
    by_patch = patchify(seen.float(), 2)
    expected = put(torch.zeros(2, 16, 4), KEPT, torch.ones(2, 5, 4))
    assert torch.equal(by_patch, expected)
    assert network.eval().visible(x, KEPT) is None
    assert network_with("dit joint", "tread").visible(x, KEPT) is None


@every_transformer
@every_rule
def test_masked_text_has_no_influence_on_a_routed_pass(name, rule):
    network, cond = network_with(name, rule), condition()
    x, t = noisy()
    garbage = torch.where(cond.mask[..., None], cond.tokens, 1e3 * torch.randn_like(cond.tokens))
    longer = Condition(garbage, cond.mask, cond.pooled).padded(9)
    torch.testing.assert_close(network(x, t, longer, kept=KEPT)[0], run(network, kept=KEPT), **CLOSE)


@every_transformer
@every_rule
def test_taps_inside_the_stretch_hold_the_kept_tokens_and_the_network_says_so(name, rule):
    network = network_with(name, rule)
    names = [f"block{number}" for number in range(1, 5)]
    _, taps = network(*noisy(), condition(), taps=names, kept=KEPT)
    inside = {"block2", "block3"} | ({"block4"} if rule == "masking" else set())
    assert {tap for tap, value in taps.items() if value.shape == (2, 5, 32)} == inside
    assert {tap for tap in names if network.routed(tap)} == inside
    assert all(taps[tap].shape == (2, 16, 32) for tap in set(names) - inside)


@every_transformer
@every_rule
def test_wide_grids_and_bf16_are_routed_as_well(name, rule):
    network = network_with(name, rule, skips=True)
    x, t = noisy(shape=(8, 12))
    kept = network.routing.draw(RowRng(0, 0, torch.arange(2), 2), network.grid(x))["kept"]
    assert kept.shape == (2, 12 if rule == "tread" else 6)
    exact = network(x, t, condition(), kept=kept)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, t, condition(), kept=kept)[0]
    assert rough.dtype == torch.float32 and rough.shape == x.shape
    assert (rough - exact).norm() < 2e-2 * exact.norm()


@every_transformer
@every_rule
def test_only_sprint_has_parameters_and_all_others_start_the_same(name, rule):
    plain, other = (small(name, **without_skips(name), routing=made) for made in (None, RULES[rule]))
    new = {"routing.mask_token", "routing.fuse.weight", "routing.fuse.bias"} if rule == "sprint" else set()
    state = other.state_dict()
    assert set(state) - set(plain.state_dict()) == new
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert count.parameters(other) - count.parameters(plain) == (2 * 32**2 + 2 * 32 if new else 0)


def test_everything_of_sprint_learns():
    network = small("dit joint", routing=RULES["sprint"]).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (run(network, kept=KEPT) - noisy()[0]).square().mean().backward()
        optimizer.step()
    assert all(bool(p.grad.any()) for p in network.parameters())


def rows_of(step=0, rows=64, seed=3):
    return RowRng(seed, step, torch.arange(rows), rows)


def rule_of(name, **options):
    return RULES[name](width=4, depth=12, **options)


@every_rule
def test_draws_are_sorted_distinct_and_a_function_of_seed_step_and_row(rule):
    rule = rule_of(rule)
    rng, grid = rows_of(), (6, 8)
    drawn = rule.draw(rng, grid)
    kept = drawn["kept"]
    assert kept.shape == (64, rule.keeps(48, step=0)) and kept.dtype == torch.int64
    assert bool((kept.diff(dim=1) > 0).all()) and 0 <= int(kept.min()) <= int(kept.max()) < 48
    for rows in (slice(0, 8), slice(40, 64), torch.tensor([5, 63, 17])):
        shard = rule.draw(rng[rows], grid)
        assert all(torch.equal(shard[name], drawn[name][rows]) for name in drawn)
    assert not torch.equal(kept[0], kept[1])
    for other in (rows_of(step=1), rows_of(seed=4)):
        assert not torch.equal(rule.draw(other, grid)["kept"], kept)


@every_rule
def test_every_token_is_kept_equally_often(rule):
    rule = rule_of(rule)
    kept = rule.draw(rows_of(rows=4000), (4, 4))["kept"]
    often = kept.flatten().bincount(minlength=16) / 4000
    share = 1 - rule.share
    assert float((often - share).abs().max()) < 5 * (share * (1 - share) / 4000) ** 0.5


@every_rule
def test_the_share_left_out_follows_the_step(rule):
    rule = rule_of(rule)
    rule.follow([0, 6, 9], [0.75, 0.5, 0.0])
    counts = [rule.draw(rows_of(step), (4, 6)).get("kept") for step in (0, 5, 6, 8)]
    assert [kept.shape[1] for kept in counts] == [6, 6, 12, 12]
    for step in (9, 1000):
        assert "kept" not in rule.draw(rows_of(step), (4, 6))


@every_transformer
def test_sprint_bypasses_rows_as_well_when_it_keeps_all_tokens(name):
    network = network_with(name, "sprint")
    bypass, everything = torch.tensor([True, False]), torch.arange(16).expand(2, -1)
    out = run(network, bypass=bypass)
    assert torch.equal(out, run(network, kept=everything, bypass=bypass))
    whole = run(network)
    assert torch.equal(out[1], whole[1]) and not torch.allclose(out[0], whole[0], **CLOSE)


def test_all_parameters_of_sprint_have_a_gradient_when_it_keeps_all_tokens():
    """DDP waits for each, also without path_drop."""
    free = functools.partial(SPRINT, share=0.0, group=2, path_drop=0.0, **PLACES)
    network = small("dit joint", routing=free).train()
    drawn = network.routing.draw(rows_of(rows=2), (4, 4))
    assert not drawn["bypass"].any()
    run(network, **drawn).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_sprint_keeps_one_token_of_each_square_and_bypasses_its_share_of_rows():
    rule = rule_of("sprint")
    drawn = rule.draw(rows_of(rows=2000), (4, 6))
    rows, columns = drawn["kept"] // 6, drawn["kept"] % 6
    squares = (rows // 2 * 3 + columns // 2).sort(1).values
    assert torch.equal(squares, torch.arange(6).expand(2000, -1))
    assert float(drawn["bypass"].float().mean()) == pytest.approx(0.5, abs=5 * (0.25 / 2000) ** 0.5)
    free = SPRINT(width=4, depth=12, share=0.75, group=None, path_drop=0.0, **PLACES)
    drawn = free.draw(rows_of(), (4, 6))
    assert drawn.keys() == {"kept"}
    assert drawn["kept"].shape == (64, 6)


@pytest.mark.parametrize(
    ("rule", "depth", "places"),
    [
        *[
            ("tread", depth, places)
            for depth, places in {3: (1, 2), 6: (1, 5), 12: (2, 9), 16: (2, 13)}.items()
        ],
        ("tread", 28, (2, 25)),
        *[("sprint", depth, places) for depth, places in {3: (1, 2), 6: (1, 5), 12: (2, 10)}.items()],
        ("sprint", 28, (2, 26)),
        *[("masking", depth, places) for depth, places in {2: (1, 2), 6: (1, 6), 28: (3, 28)}.items()],
    ],
)
def test_the_usual_stretch_is_that_of_the_papers(rule, depth, places):
    made = RULES[rule](width=4, depth=depth)
    assert (made.first, made.last) == places


def test_no_routing_draws_nothing_and_changes_nothing():
    network = trained("single", routing=NoRouting).train()
    assert network.routing.draw(rows_of(), (4, 4)) == {}
    assert not any(network.routed(f"block{number}") for number in range(1, 5))
    assert torch.equal(run(network), run(trained("single")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (functools.partial(TREAD, share=1.0, **PLACES), r"model\.routing\.share must lie in \[0, 1\), got 1"),
        (functools.partial(TREAD, share=-0.1, **PLACES), r"model\.routing\.share"),
        (
            functools.partial(TREAD, share=0.5, first=3, last=3),
            r"model\.routing.*first=3 up to last=3.*depth=4",
        ),
        (functools.partial(TREAD, share=0.5, first=1, last=5), r"model\.depth=4"),
        (functools.partial(Masking, share=0.5, first=4), r"model\.routing"),
        (
            functools.partial(SPRINT, share=0.75, group=2, path_drop=1.5, **PLACES),
            r"model\.routing\.path_drop",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        small("dit joint", routing=make)


@pytest.mark.parametrize(
    ("rule", "grid", "message"),
    [
        (functools.partial(TREAD, share=0.99, **PLACES), (4, 4), r"share=0\.99 leaves none of 16 tokens"),
        (RULES["sprint"], (4, 5), r"model\.routing\.group=2 does not divide 4 x 5"),
        (
            functools.partial(SPRINT, share=0.6, group=2, path_drop=0.0, **PLACES),
            (4, 4),
            r"model\.routing\.share=0\.6 of squares of 2 x 2",
        ),
        (functools.partial(SPRINT, share=0.9, group=2, path_drop=0.0, **PLACES), (4, 4), r"leaves none of 4"),
        (functools.partial(SPRINT, share=0.5, group=0, path_drop=0.0, **PLACES), (4, 4), r"routing\.group=0"),
    ],
)
def test_grids_that_do_not_fit_are_refused_by_name(rule, grid, message):
    with pytest.raises(ValueError, match=message):
        rule(width=4, depth=4).draw(rows_of(), grid)


def test_kept_tokens_are_refused_without_a_rule_and_long_skips_across_the_stretch():
    with pytest.raises(ValueError, match="routing@model"):
        run(trained("mmdit"), kept=KEPT)
    with pytest.raises(ValueError, match=r"model\.routing\.first \+ last = model\.depth=4"):
        small("dit kv", routing=RULES["masking"])


@pytest.mark.slow
@every_rule
def test_the_compiler_traces_a_routed_network_and_changes_nothing(rule):
    network = network_with("dit joint rope", rule)
    exact = run(network, kept=KEPT)
    torch.compiler.reset()  # the forms that other tests traced count against a limit
    traced = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(*noisy(), condition(), kept=KEPT)[0], exact, **CLOSE)
