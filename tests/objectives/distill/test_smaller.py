"""A smaller student: what it takes over, and its losses."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch, Condition
from t2ilab.models.dit import DiT
from t2ilab.models.unet import UNet
from t2ilab.objectives.distill.kd import KD, _relative
from t2ilab.objectives.distill.smaller import (
    _cut,
    kept_blocks,
    matched_taps,
    of_the_same_kind,
    smaller,
    take_over,
)
from t2ilab.objectives.roles import Roles
from tests.objectives.distill import distributions

DIT = {
    "in_channels": 2,
    "input_size": 4,
    "patch_size": 2,
    "width": 16,
    "depth": 6,
    "heads": 2,
    "text_dim": 3,
    "context": "kv",
}
UNET = {
    "in_channels": 2,
    "input_size": 4,
    "widths": [64, 128],
    "layers": 1,
    "attention": [True, True],
    "head_dim": 32,
    "text_dim": 3,
    "groups": 16,
}


def kd(keep=0.5, **more):
    return KD(Uniform(), keep=keep, **{"task": 1.0, "output": 1.0, "feature": 1.0} | more)


def loud(network):
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return network


def denoiser(network):
    return Denoiser(network, Linear(), Velocity())


def batch_of(rows=4):
    rng = RowRng(7, 0, torch.arange(rows), rows)
    texts = Condition(rng.normal("text", 5, 3), torch.ones(rows, 5, dtype=torch.bool))
    return Batch(rng.normal("data", 2, 4, 4), texts, texts[:1]), rng


def test_blocks_are_kept_evenly_with_both_ends():
    assert kept_blocks(12, 0.5) == [0, 2, 4, 7, 9, 11] and kept_blocks(2, 0.5) == [0]
    assert kept_blocks(6, 1.0) == list(range(6))


@pytest.mark.parametrize(("kind", "sizes"), [(DiT, DIT), (UNet, UNET)])
def test_a_student_that_keeps_everything_has_no_loss_but_that_of_the_data(kind, sizes):
    teacher = denoiser(loud(kind(**sizes)))
    assert smaller(sizes | {"_target_": "x"}, 1.0) == sizes | {"_target_": "x"}
    student = denoiser(kind(**sizes))
    method = kd(keep=1.0)
    take_over(student.backbone, teacher.backbone)
    method.bind(student, Roles(teacher=teacher))
    batch, rng = batch_of()
    losses = method(batch, rng)
    assert float(losses.notes["kd_output"].max()) == float(losses.notes["kd_feature"].max()) == 0.0
    torch.testing.assert_close(losses.terms["kd"], losses.notes["kd_task"])
    silent = kd(keep=1.0, task=0.0)
    silent.bind(student, Roles(teacher=teacher))
    assert float(silent(batch, rng).total.max()) == 0.0


def test_a_student_that_is_its_teacher_has_the_least_loss_that_the_data_allow():
    """std^2 / V_t with V_t = (1 - t)^2 std^2 + t^2, the variance of the velocity given x_t."""
    method = KD(Uniform(0.4, 0.400001), keep=1.0, task=1.0, output=1.0, feature=0.0)
    method.bind(distributions.teacher(), Roles(teacher=distributions.teacher()))
    loss = method(*distributions.batch_of(rows=512)).total.mean()
    variance = 0.36 * distributions.STD**2 + 0.16
    assert float(loss) == pytest.approx(distributions.STD**2 / variance, rel=0.05)


@pytest.mark.parametrize(("kind", "sizes"), [(DiT, DIT), (UNet, UNET)])
def test_half_a_network_learns_and_its_teacher_does_not(kind, sizes):
    teacher = denoiser(loud(kind(**sizes)))
    small = kind(**{k: v for k, v in smaller(sizes | {"_target_": "x"}, 0.5).items() if k != "_target_"})
    take_over(small, teacher.backbone)
    count, whole = (sum(p.numel() for p in network.parameters()) for network in (small, teacher))
    assert 0.4 * whole < count < 0.65 * whole
    method = kd()
    method.bind(denoiser(small), Roles(teacher=teacher.requires_grad_(False)))
    method(*batch_of()).total.mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    projects = {type(layer).__name__ for layer in method.projectors}
    assert projects == ({"Identity"} if kind is DiT else {"Linear"})
    assert bool(dict(method.beside_student())) == (kind is UNet)


def test_each_part_counts_by_its_weight_and_a_teacher_learns_nothing_frozen_or_not():
    teacher, student = denoiser(loud(DiT(**DIT))), denoiser(loud(DiT(**DIT | {"depth": 3})))
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(0.9)
    weights = {"task": 2.0, "output": 3.0, "feature": 0.25}
    method = kd(**weights)
    method.bind(student, Roles(teacher=teacher))
    losses = method(*batch_of())
    wanted = sum(weight * losses.notes[f"kd_{part}"] for part, weight in weights.items())
    torch.testing.assert_close(losses.terms["kd"], wanted)
    assert not any(note.requires_grad for note in losses.notes.values())
    losses.total.mean().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_deep_unet_keeps_its_widths_and_a_share_of_its_layers():
    assert smaller(UNET | {"_target_": "x", "layers": 4}, 0.5)["layers"] == 2
    assert smaller(UNET | {"_target_": "x", "layers": 2}, 0.1) == UNET | {"_target_": "x", "layers": 1}
    assert smaller(UNET | {"_target_": "x"}, 0.1)["widths"] == [32, 32], "no less than one head"


def test_a_preset_of_another_kind_is_refused_by_the_names_of_both():
    student, taught = {"_target_": "a.b.DiT", "depth": 2}, {"_target_": "a.c.UNet"}
    assert of_the_same_kind(student | {"depth": 9}, student) == student
    with pytest.raises(ValueError, match="the student would be a DiT and its teacher is a UNet;"):
        of_the_same_kind(taught, student)


@pytest.mark.parametrize(
    ("sizes", "widths", "wanted"),
    [
        ((24, 48), (8, 16), ((3, 8), (3, 16))),  # queries, keys and values
        ((8, 16), (8, 16), ((1, 8), (1, 16))),
        ((16, 16), (8, 16), ((1, 16), (1, 16))),  # twice one width, once the other
        ((5, 48), (8, 16), ((1, 5), (1, 48))),
        ((3, 48), (1, 16), ((1, 3), (1, 48))),  # a network that states no width
        ((0, 0), (8, 16), ((1, 0), (1, 0))),
    ],
)
def test_an_axis_is_cut_in_as_many_parts_as_both_have_of_their_widths(sizes, widths, wanted):
    assert _cut(*sizes, widths) == wanted


def test_hidden_states_are_compared_in_units_of_their_variance():
    found, wanted = torch.randn(2, 3, 4), torch.tensor([-3.0, 3.0]).view(2, 1, 1).expand(2, 3, 4)
    error = (found - wanted).square().mean((1, 2))
    torch.testing.assert_close(_relative(found, wanted), error / wanted.var())
    torch.testing.assert_close(_relative(10 * found, 10 * wanted), error / wanted.var())


@pytest.mark.parametrize("part", ["task", "output", "feature"])
def test_negative_weights_are_refused_and_hidden_states_of_other_patches_too(part):
    with pytest.raises(ValueError, match="must not be negative"):
        kd(**{part: -1.0})
    with pytest.raises(ValueError, match="nor all 0"):
        kd(task=0.0, output=0.0, feature=0.0)
    coarse, fine = (denoiser(DiT(**DIT | {"patch_size": size})) for size in (4, 2))
    with pytest.raises(ValueError, match=r"patches of 4 and of 2 cannot be compared.*model\.patch_size=2"):
        kd().bind(coarse, Roles(teacher=fine))
    kd(feature=0.0).bind(coarse, Roles(teacher=fine))


def test_a_block_that_does_nothing_can_be_left_out_without_a_trace():
    teacher = loud(DiT(**DIT))
    for number in set(range(6)) - set(kept_blocks(6, 0.5)):
        for p in teacher.blocks[number].modulation.parameters():
            torch.nn.init.zeros_(p)
    student = DiT(**DIT | {"depth": 3})
    take_over(student, teacher)
    batch, _ = batch_of()
    t = torch.full((4,), 300.0)
    assert torch.equal(student(batch.x0, t, batch.condition)[0], teacher(batch.x0, t, batch.condition)[0])


def test_a_narrower_student_takes_the_first_heads_of_queries_keys_and_values_each():
    teacher = loud(DiT(**DIT))
    student = DiT(**DIT | {"width": 8, "heads": 1, "depth": 2})
    take_over(student, teacher)
    for own, other in ((0, 0), (1, 5)):
        found, source = (
            network.blocks[number].attention.qkv.weight
            for network, number in ((student, own), (teacher, other))
        )
        assert torch.equal(found.view(3, 8, 8), source.view(3, 16, 16)[:, :8, :8])
    assert matched_taps(student, teacher) == [("block1", "block1"), ("block2", "block6")]
    method = kd()
    method.bind(denoiser(student), Roles(teacher=denoiser(teacher)))
    assert [type(layer).__name__ for layer in method.projectors] == ["Linear", "Linear"]
    method(*batch_of()).total.mean().backward()


def test_networks_with_nothing_to_leave_out_are_refused():
    with pytest.raises(ValueError, match="nothing to leave out"):
        smaller(DIT | {"_target_": "x", "depth": 1}, 0.5)
    with pytest.raises(ValueError, match="neither its depth nor its widths"):
        smaller({"_target_": "x"}, 0.5)
    with pytest.raises(ValueError, match=r"loss\.keep must be in"):
        kd(keep=1.5)
