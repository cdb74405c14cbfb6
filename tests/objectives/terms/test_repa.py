"""Representation alignment: values known without training, and where its gradient reaches."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from t2ilab.core.timestep import Uniform
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.terms.base import TermInput, TermWeight
from t2ilab.objectives.terms.repa import REPA, grid_of, on_grid
from tests.objectives.terms.students import ROWS, batch_of, dit, rng_of

ALWAYS = TermWeight(0.5, total=100)


def repa(weight=ALWAYS, *, tap="block2", dim=6, **options):
    return REPA(weight, encoder=functools.partial(nn.Identity), tap=tap, dim=dim, hidden=16, **options)


class Given(nn.Module):
    """A projector that says what it is told."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, hidden):
        return self.said


def value(said, wanted, **options):
    """The term for a projector that says `said` (B, 16, d) of a 4 x 4 grid when the encoder says `wanted`."""
    term, student = repa(dim=said.shape[-1], **options), dit()
    term.bind(student)
    term.projector = Given(said)
    batch, rng = batch_of(wanted), rng_of()
    estimate = student(batch.x0, torch.full((ROWS,), 0.5), batch.condition, term.taps)
    return term(TermInput(batch, batch.x0, estimate.t, estimate, rng, wanted))


@pytest.mark.parametrize(("factor", "expected"), [(3.0, -1.0), (0.01, -1.0), (-2.0, 1.0)])
def test_it_is_minus_the_cosine_whatever_the_lengths(factor, expected):
    wanted = torch.randn(ROWS, 16, 6)
    lengths = torch.rand(ROWS, 16, 1) + 0.1
    torch.testing.assert_close(value(factor * lengths * wanted, wanted), torch.full((ROWS,), expected))


def test_unrelated_vectors_give_zero_with_the_spread_of_random_directions():
    dim = 64
    found = value(torch.randn(ROWS, 16, dim), torch.randn(ROWS, 16, dim))
    assert float(found.abs().max()) < 5 / math.sqrt(16 * dim)


def test_a_common_vector_of_all_tokens_is_invisible_to_irepa_only():
    said, wanted = torch.randn(ROWS, 16, 6), torch.randn(ROWS, 16, 6)
    shifted = wanted + torch.randn(1, 1, 6)
    torch.testing.assert_close(value(said, wanted, normalise=1.0), value(said, shifted, normalise=1.0))
    assert not torch.allclose(value(said, wanted), value(said, shifted), atol=1e-2)


@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_irepa_wants_features_less_their_mean_in_units_of_their_std(gamma):
    wanted = torch.randn(ROWS, 16, 6) * torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 9.0]) + 1.0
    said = (wanted - gamma * wanted.mean(1, keepdim=True)) / wanted.std(1, keepdim=True)
    torch.testing.assert_close(value(said, wanted, normalise=gamma), torch.full((ROWS,), -1.0))
    assert float(value(wanted, wanted, normalise=gamma).min()) > -0.9


def test_features_that_hardly_vary_keep_their_sign():
    """The 1e-6 is added to the std, which is half of it here."""
    wanted = torch.randn(ROWS, 16, 6)
    wanted = 5e-7 * (wanted - wanted.mean(1, keepdim=True)) / wanted.std(1, keepdim=True)
    torch.testing.assert_close(value(wanted, wanted, normalise=0.0), torch.full((ROWS,), -1.0))


def test_it_reads_an_early_place_that_the_model_names():
    term, student = repa(tap=None), dit(depth=6)
    term.bind(student)
    assert term.taps == (student.depths[0],) and student.depths[0] != student.depths[1]


def test_rows_and_columns_of_the_encoder_are_those_of_the_latents():
    """A hidden state that says where it stands matches an encoder that says so, and not a transposed one."""
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten(), torch.ones(16)], -1).expand(ROWS, -1, -1)
    x0 = torch.zeros(ROWS, 3, 4, 4)
    x0[:, 0], x0[:, 1], x0[:, 2] = row, column, 1.0
    tokens = x0.flatten(2).transpose(1, 2)  # as patchify gives them
    torch.testing.assert_close(value(tokens, places), torch.full((ROWS,), -1.0))
    assert float(value(tokens[:, :, [1, 0, 2]], places).mean()) > -0.99


@pytest.mark.parametrize(
    ("tokens", "shape", "grid"), [(64, (8, 8), (8, 8)), (16, (8, 8), (4, 4)), (24, (8, 12), (4, 6))]
)
def test_the_grid_follows_from_the_number_of_tokens(tokens, shape, grid):
    assert grid_of(tokens, torch.zeros(1, 4, *shape)) == grid


def test_features_of_another_grid_are_resized_and_constants_stay():
    constant = torch.full((2, 64, 3), 0.7)
    torch.testing.assert_close(on_grid(constant, (4, 6)), torch.full((2, 24, 3), 0.7))
    same = torch.randn(2, 16, 3)
    assert on_grid(same, (4, 4)) is same
    with pytest.raises(ValueError, match="15 patches"):
        on_grid(torch.zeros(1, 15, 3), (4, 4))


def gradients(objective, student, *, steps=0):
    """Names of the parameters that a term reaches, after `steps` velocity steps that wake the zero layers."""
    batch = batch_of(torch.randn(ROWS, 16, 6))
    losses = objective(batch, rng_of())
    student.zero_grad()
    losses.terms["repa"].mean().backward()
    return {name for name, p in student.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_at_the_start_it_reaches_patches_and_the_gates_of_the_blocks_up_to_its_tap_only():
    student = dit(depth=3)
    objective = FlowMatching(Uniform(), terms={"repa": repa()})
    objective.bind(student)
    reached = gradients(objective, student)
    assert {name for name in reached if "patch_in" not in name} == {
        f"backbone.blocks.{block}.modulation.{kind}" for block in (0, 1) for kind in ("weight", "bias")
    }
    gates = student.backbone.blocks[0].modulation.bias.grad.chunk(6)
    assert [bool(part.any()) for part in gates] == [False, False, True, False, False, True]


def test_the_student_moves_as_without_it_when_its_weight_is_zero():
    finals = []
    for terms in ({}, {"repa": repa(TermWeight(0.0, total=100))}):
        student = dit()
        objective = FlowMatching(Uniform(), terms=terms)
        objective.bind(student)
        batch = batch_of(torch.randn(ROWS, 16, 6))
        losses = objective(batch, rng_of())
        losses.total.mean().backward()
        finals.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_a_stopped_term_costs_nothing_and_still_gives_its_projector_a_gradient_of_zero():
    student = dit()
    objective = FlowMatching(Uniform(), terms={"repa": repa(TermWeight(0.5, total=100, stop=0.1))})
    objective.bind(student)
    for parameter in objective.terms["repa"].parameters():
        nn.init.zeros_(parameter)  # as layers that start at zero do
    losses = objective(batch_of(None), rng_of(step=10))
    assert losses.total.isfinite().all()
    assert list(losses.terms) == ["flow_matching"]
    losses.total.mean().backward()
    grads = [p.grad for p in objective.terms["repa"].parameters()]
    assert grads and all(grad is not None and not grad.any() for grad in grads)


def test_the_weight_multiplies_the_term_in_the_total():
    student = dit()
    objective = FlowMatching(Uniform(), terms={"repa": repa(TermWeight(3.0, total=100))})
    objective.bind(student)
    losses = objective(batch_of(torch.randn(ROWS, 16, 6)), rng_of())
    torch.testing.assert_close(losses.total, losses.terms["flow_matching"] + 3 * losses.terms["repa"])


def test_a_convolution_sees_the_neighbours_and_an_mlp_does_not():
    for kind, sees in (("conv", True), ("mlp", False)):
        term = repa(projector=kind)
        term.bind(dit())
        hidden = torch.randn(1, 16, 24)
        changed = hidden.clone()
        changed[:, 0] += 1
        flat = [h.transpose(1, 2).unflatten(2, (4, 4)) if kind == "conv" else h for h in (hidden, changed)]
        before, after = (term.projector(h) for h in flat)
        difference = (before - after).abs()
        neighbour = difference[0, :, 0, 1] if kind == "conv" else difference[0, 1]
        assert bool(neighbour.any()) == sees


@pytest.mark.parametrize(
    ("projector", "width", "count"),
    [
        ("mlp", 768, 7_344_896),
        ("mlp", 1024, 7_869_184),
        ("mlp", 1152, 8_131_328),
        ("conv", 768, 5_309_184),
        ("conv", 1024, 7_078_656),
        ("conv", 1152, 7_963_392),
    ],
)
def test_projectors_to_768_features_have_as_many_parameters_as_the_official_ones(projector, width, count):
    """On the widths of DiT-B, L and XL; the MLP is 2048 wide."""
    term = REPA(ALWAYS, encoder=nn.Identity, tap=None, dim=768, projector=projector)
    with torch.device("meta"):
        term.bind(SimpleNamespace(depths=("block4",), tap_width=lambda tap: width))
    assert sum(parameter.numel() for parameter in term.parameters()) == count


def test_a_convolution_puts_kept_tokens_where_they_stood_on_a_grid_that_is_wider_than_high():
    term, student, batch = repa(projector="conv"), dit(), batch_of(None)
    term.bind(student)
    kept, features = torch.tensor([0, 5, 15]).expand(ROWS, 3), torch.randn(ROWS, 16, 6)
    estimate = student(batch.x0, torch.full((ROWS,), 0.5), batch.condition)
    hidden = estimate.taps["block2"] = torch.randn(ROWS, 3, 24)
    estimate.kept, estimate.grid = kept, (2, 8)
    found = term(TermInput(batch, batch.x0, estimate.t, estimate, rng_of(), features))
    maps = torch.zeros(ROWS, 24, 16)
    maps[:, :, kept[0]] = hidden.mT
    said = term.projector(maps.unflatten(2, (2, 8))).flatten(2).mT[:, kept[0]]
    wanted = on_grid(features, (2, 8))[:, kept[0]]
    torch.testing.assert_close(found, -torch.cosine_similarity(said, wanted, dim=-1).mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"projector": "rnn"}, "terms.repa.projector"), ({"tap": "block9"}, "unknown taps")],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        repa(**options).bind(dit())


@pytest.mark.parametrize(
    ("dim", "given", "width"), [(96, None, 256), (768, None, 2048), (1024, None, 2048), (1024, 64, 64)]
)
def test_the_projector_is_as_wide_as_its_encoder_asks_for(dim, given, width):
    weight = TermWeight(0.5, total=100)
    assert REPA(weight, encoder=nn.Identity, tap=None, dim=dim, hidden=given).hidden == width
