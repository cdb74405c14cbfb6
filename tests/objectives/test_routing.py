"""Routing in training: who draws, what the loss counts, and which features a term compares."""

import functools

import pytest
import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear, VPLinear
from t2ilab.core.prediction import X0, Eps, Velocity
from t2ilab.core.timestep import Uniform
from t2ilab.models.dit import DiT
from t2ilab.models.layers import patchify
from t2ilab.models.routing import SPRINT, TREAD, Masking, pick
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.distill.consistency import Consistency
from t2ilab.objectives.distill.kd import KD
from t2ilab.objectives.distill.levels import EvenLevels
from t2ilab.objectives.distill.scm import SCM
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.roles import Roles
from t2ilab.objectives.score_matching import ScoreMatching
from t2ilab.objectives.terms.base import TermWeight
from t2ilab.objectives.terms.dispersive import Dispersive
from t2ilab.objectives.terms.repa import REPA
from t2ilab.objectives.terms.sra import SRA
from tests.objectives.terms.students import ROWS, awake, batch_of, rng_of

ALWAYS = TermWeight(0.5, total=100)
PLACES = {"first": None, "last": None}
RULES = {
    "tread": functools.partial(TREAD, share=0.5, **PLACES),
    "sprint": functools.partial(SPRINT, share=0.75, group=2, path_drop=0.5, **PLACES),
    "masking": functools.partial(Masking, share=0.75, first=None),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def student_with(rule, path=None, prediction=None, *, patch=1):
    """4 x 4 tokens, three blocks of which the second (masking: and the third) is routed; no layer at zero."""
    torch.manual_seed(0)
    network = DiT(
        in_channels=3,
        input_size=4 * patch,
        patch_size=patch,
        width=24,
        depth=3,
        heads=2,
        text_dim=5,
        routing=rule and RULES[rule],
    )
    return awake(Denoiser(network, path or Linear(), prediction or Velocity()))


def bound(student, objective=None, **terms):
    objective = FlowMatching(Uniform(), terms=terms) if objective is None else objective
    objective.bind(student)
    return objective


@every_rule
def test_the_loss_of_a_row_does_not_depend_on_the_rows_beside_it(rule):
    """So neither the number of processes nor accumulation matters."""
    objective, batch, rng = bound(student_with(rule)), batch_of(None, 8), rng_of(rows=8)
    whole = objective(batch, rng).total
    for rows in (slice(0, 4), slice(4, 8), slice(6, 7)):
        part = type(batch)(batch.x0[rows], batch.condition[rows], batch.null)
        torch.testing.assert_close(objective(part, rng[rows]).total, whole[rows])
    torch.testing.assert_close(objective(batch, rng).total, whole, rtol=0, atol=0)


METHODS = {
    "consistency": lambda: Consistency(
        levels=EvenLevels(4, None), teacher=True, decay=None, huber=None, steps=2, scale=None, scales=None
    ),
    "scm": lambda: SCM(teacher=False, mean=0.0, std=1.0, warmup=0, steps=2, shift=None, scale=None),
    "kd": lambda: KD(Uniform(), keep=1.0, task=1.0, output=1.0, feature=1.0),
}


@every_rule
@pytest.mark.parametrize("method", METHODS)
def test_a_student_of_distillation_sees_all_tokens(method, rule):
    """A teacher speaks of whole images, and so do they who are compared with it."""
    student, objective = student_with(rule), METHODS[method]()
    objective.bind(student, Roles(teacher=student_with(rule).eval()))
    found = []
    for training in (True, False):
        student.train(training)
        total = objective(batch_of(None), rng_of()).total
        (slope,) = torch.autograd.grad(total.sum(), student.backbone.blocks[1].attention.qkv.weight)
        found.append(torch.cat([total.detach(), slope.flatten()]))
    assert found[0].any() and torch.equal(*found)


@every_rule
def test_a_step_of_training_is_routed_and_evaluation_is_not(rule):
    student = student_with(rule)
    objective, batch, rng = bound(student), batch_of(None), rng_of()
    given = []
    student.backbone.register_forward_pre_hook(lambda m, args, more: given.append(more), with_kwargs=True)
    routed = objective(batch, rng).total
    drawn = student.routes(rng, batch.x0)
    assert torch.equal(given[0]["kept"], drawn["kept"])
    assert given[0].keys() == ({"kept", "bypass"} if rule == "sprint" else {"kept"})
    student.eval()
    assert student.routes(rng, batch.x0) == {}
    assert not torch.allclose(objective(batch, rng).total, routed)
    assert given[1] == {}


@pytest.mark.parametrize("rule", ["tread", "masking"])
def test_while_the_share_is_0_the_loss_is_that_of_a_student_without_a_rule(rule):
    student, plain = student_with(rule), student_with(None)
    student.backbone.routing.follow([0, 5], [0.5, 0.0])
    for step in (4, 5):
        losses = [bound(one)(batch_of(None), rng_of(step=step)).total for one in (student, plain)]
        assert torch.equal(*losses) == (step == 5)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(
    ("objective", "path", "prediction"),
    [
        (FlowMatching(Uniform()), Linear(), Velocity()),
        (Diffusion(Uniform()), Linear(), X0()),
        (ScoreMatching(Uniform()), VPLinear(), Eps()),
    ],
    ids=["flow matching", "diffusion", "score matching"],
)
def test_the_loss_of_masked_training_is_the_mean_over_the_kept_patches(objective, path, prediction, patch):
    student = student_with("masking", path, prediction, patch=patch)
    batch, rng = batch_of(None), rng_of()
    batch = type(batch)(rng.normal("pictures", 3, 4 * patch, 4 * patch), batch.condition, batch.null)
    bound(student, objective)
    loss = objective(batch, rng).total
    t, eps = objective.draw(batch, rng)
    kept = student.routes(rng, batch.x0)["kept"]
    out = student(path.mix(batch.x0, eps, t), t, batch.condition, rng=rng).out
    error = patchify((out - prediction.target(path, batch.x0, eps, t)).square(), patch)
    assert kept.shape == (ROWS, 4)
    torch.testing.assert_close(loss, pick(error, kept).flatten(1).mean(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(loss, error.flatten(1).mean(1), rtol=1e-2)


def test_masked_places_of_the_image_have_no_gradient_in_the_loss():
    student = student_with("masking")
    objective, batch, rng = bound(student), batch_of(None), rng_of()
    outputs = []

    def note(module, inputs, made):
        made[0].retain_grad()
        outputs.append(made[0])

    student.backbone.register_forward_hook(note)
    objective(batch, rng).total.sum().backward()
    moved = patchify(outputs[0].grad, 1).abs().sum(2) > 0
    kept = student.routes(rng, batch.x0)["kept"]
    assert torch.equal(moved, torch.zeros(ROWS, 16, dtype=torch.bool).scatter(1, kept, True))


class Given(nn.Module):
    """A projector that says what it is told, whatever it sees."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, hidden):
        assert hidden.shape[1] == self.said.shape[1]
        return self.said


def repa(**options):
    return REPA(ALWAYS, encoder=functools.partial(nn.Identity), dim=6, hidden=16, **options)


@every_rule
@pytest.mark.parametrize("tap", ["block1", "block2"])
def test_repa_compares_kept_tokens_with_what_the_encoder_sees_there(rule, tap):
    features = torch.randn(ROWS, 16, 6)
    term, student = repa(tap=tap), student_with(rule)
    objective = bound(student, repa=term)
    kept = student.routes(rng_of(), batch_of(None).x0)["kept"]
    everywhere, there = (tap == "block1"), pick(features, kept)
    term.projector = Given(features if everywhere else there)
    losses = objective(batch_of(features), rng_of())
    torch.testing.assert_close(losses.terms["repa"], -torch.ones(ROWS))
    if not everywhere:  # what a slip of one token would give
        term.projector = Given(there.roll(1, 1))
        assert float(objective(batch_of(features), rng_of()).terms["repa"].min()) > -0.99


@pytest.mark.parametrize("normalise", [None, 1.0])
def test_irepa_sees_zeros_for_the_tokens_left_out_and_normalises_over_all(normalise):
    features = torch.randn(ROWS, 16, 6)
    term, student = repa(tap="block2", projector="conv", normalise=normalise), student_with("tread")
    objective, rng = bound(student, repa=term), rng_of()
    batch = batch_of(features)
    loss = objective(batch, rng).terms["repa"]
    t, eps = objective.draw(batch, rng)
    kept = student.routes(rng, batch.x0)["kept"]
    hidden = student(student.path.mix(batch.x0, eps, t), t, batch.condition, ("block2",), rng=rng).taps[
        "block2"
    ]
    maps = torch.zeros(ROWS, 24, 4, 4)
    for row in range(ROWS):
        for token, place in zip(hidden[row], kept[row].tolist(), strict=True):
            maps[row, :, place // 4, place % 4] = token
    said = term.projector(maps).flatten(2).transpose(1, 2)
    if normalise is not None:
        features = (features - features.mean(1, keepdim=True)) / (features.std(1, keepdim=True) + 1e-6)
    cosines = torch.cosine_similarity(said, features, dim=-1)
    torch.testing.assert_close(loss, -cosines.gather(1, kept).mean(1), rtol=1e-4, atol=1e-5)


def test_the_teacher_of_self_alignment_sees_all_tokens_and_is_compared_at_the_kept_ones():
    student = student_with("tread")
    term = SRA(ALWAYS, tap="block2", teacher_tap="block3", reach=0.2)
    objective, batch, rng = bound(student, sra=term), batch_of(None), rng_of()
    term.head = nn.Identity()
    loss = objective(batch, rng).terms["sra"]
    t, eps = objective.draw(batch, rng)
    kept = student.routes(rng, batch.x0)["kept"]
    hidden = student(student.path.mix(batch.x0, eps, t), t, batch.condition, ("block2",), rng=rng).taps[
        "block2"
    ]
    earlier = (t - 0.2 * rng.uniform("sra")).clamp(min=0)
    taught = student(student.path.mix(batch.x0, eps, earlier), earlier, batch.condition, ("block3",)).taps[
        "block3"
    ]
    expected = -torch.cosine_similarity(hidden, pick(taught, kept), dim=-1).mean(1)
    torch.testing.assert_close(loss, expected)


def test_images_are_not_pushed_apart_by_tokens_of_different_places():
    with pytest.raises(ValueError, match=r"terms\.dispersive\.tap=block2.*model\.routing"):
        bound(student_with("tread"), dispersive=Dispersive(ALWAYS, tap="block2"))
    objective = bound(student_with("tread"), dispersive=Dispersive(ALWAYS, tap="block1"))
    assert objective(batch_of(None), rng_of()).terms["dispersive"].isfinite().all()
