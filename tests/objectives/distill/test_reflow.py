"""Reflow and InstaFlow on the Gaussian coupling x0 = mean + std eps, whose straight velocity is known."""

import pytest
import torch
from torch import nn

from t2ilab.core.loss_aware import LossAware
from t2ilab.core.path import VE, Linear
from t2ilab.core.prediction import Eps
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch
from t2ilab.latents.identity import Identity
from t2ilab.measuring.few_steps import straightness
from t2ilab.objectives.distill.instaflow import InstaFlow
from t2ilab.objectives.distill.progressive import Progressive
from t2ilab.objectives.distill.reflow import Reflow
from t2ilab.objectives.roles import Roles
from t2ilab.objectives.terms.base import TermWeight
from t2ilab.objectives.terms.perceptual import Perceptual
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Heun
from t2ilab.sampling.student import Student
from tests.objectives.distill.distributions import MEAN, SHAPE, STD, line, straight, teacher
from tests.oracles import texts


def pairs(rows=16, step=0):
    rng = RowRng(3, step, torch.arange(rows), rows)
    eps = rng.normal("eps", *SHAPE, dtype=torch.float64)
    return Batch(MEAN + STD * eps, texts(rows), texts(1), eps=eps), rng


def reflow(**more):
    return Reflow(Uniform(), **{"steps": 4, "at_steps": False, "shift": None} | more)


def bound(method, student, **roles):
    method.bind(student, Roles(**roles))
    return method


@pytest.mark.parametrize("at_steps", [False, True])
def test_the_straight_velocity_has_no_loss_on_its_pairs_and_others_have(at_steps):
    batch, rng = pairs()
    assert float(bound(reflow(at_steps=at_steps), straight())(batch, rng).total.max()) < 1e-10
    assert float(bound(reflow(at_steps=at_steps), teacher())(batch, rng).total.mean()) > 1e-2


def test_one_step_of_the_straight_velocity_gives_the_image_of_the_pair():
    batch, rng = pairs()
    drawn = Student("one_step", [1.0])(straight(), batch.eps, batch.condition).x
    torch.testing.assert_close(drawn, batch.x0)
    assert float(bound(instaflow(), straight())(batch, rng).total.max()) < 1e-10
    seen = instaflow(Difference(), warmup=0.0)
    assert float(bound(seen, straight(), autoencoder=Identity())(batch, rng).total.max()) < 1e-6


def test_noise_and_image_of_a_teacher_lie_nearer_than_independent_ones():
    """E |eps - x0|^2: mean^2 + (1 - std)^2 for the pairs of a Gaussian, mean^2 + 1 + std^2 independently."""
    eps = pairs(rows=512)[0].eps
    x0 = Heun(Grid(40))(teacher(), eps, texts(512)).x
    cost, independent = ((noise - x0).square().mean() for noise in (eps, eps.roll(1, 0)))
    assert float(cost) == pytest.approx(MEAN**2 + (1 - STD) ** 2, rel=0.05)
    assert float(independent) == pytest.approx(MEAN**2 + 1 + STD**2, rel=0.05)


def test_distillation_after_reflow_trains_the_times_of_its_steps_alone():
    student = line()
    method = bound(reflow(at_steps=True, shift=2.2), student)
    method(*pairs(rows=64))
    trained = {round(float(t), 6) for t in student.backbone.calls[0][1]}
    assert trained == {round(t, 6) for t in method.drawing(Linear()).times}


def test_noise_is_that_of_the_pair_and_without_it_there_is_nothing_to_learn():
    batch, rng = pairs()
    student = line()
    method = bound(reflow(), student)
    method(batch, rng)
    x_t, t, _ = student.backbone.calls[0]
    torch.testing.assert_close(x_t, Linear().mix(batch.x0, batch.eps, t))
    with pytest.raises(ValueError, match="choose data=pairs"):
        method(Batch(batch.x0, batch.condition), rng)


@pytest.mark.parametrize(("std", "known"), [(1.0, 2 - torch.pi / 2), (0.4, 0.17168)])
def test_straightness_of_a_gaussian_flow_is_that_of_its_formula_and_0_after_reflow(std, known):
    steps = 400
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    root = torch.sqrt((1 - t) ** 2 * std**2 + t**2)
    x1 = RowRng(1, 0, torch.arange(4096), 4096).normal("x", 1, 1, 1, dtype=torch.float64)
    way = root.view(-1, 1, 1, 1, 1) * x1  # x_t = sqrt(V_t / V_1) x_1
    assert float(straightness((t, way)).mean()) == pytest.approx(known, rel=0.06)
    line_ = (1 - t).view(-1, 1, 1, 1, 1) * std * x1 + t.view(-1, 1, 1, 1, 1) * x1
    assert float(straightness((t, line_)).max()) < 1e-10


class Difference(nn.Module):
    """A stand-in for a perceptual distance: mean absolute difference."""

    loaded = 0

    def load(self):
        self.loaded += 1

    def forward(self, images, target):
        return (images - target).abs().flatten(1).mean(1)


def instaflow(perceptual=None, **more):
    return InstaFlow(perceptual=perceptual, **{"warmup": 0.5, "weight": 0.0, "total": 10} | more)


def test_the_perceptual_distance_comes_after_the_warm_up_and_is_that_of_decoded_images():
    distance = Difference()
    student = line()
    method = bound(instaflow(distance, weight=2.0), student, autoencoder=Identity())
    assert distance.loaded == 1
    batch, _ = pairs()
    early, late = (method(batch, RowRng(3, step, torch.arange(16), 16)) for step in (4, 5))
    found = student(batch.eps, torch.ones(16, dtype=torch.float64), batch.condition).x0
    error = (found - batch.x0).square().flatten(1).mean(1).float()
    torch.testing.assert_close(early.terms["instaflow"], error)
    torch.testing.assert_close(late.notes["latent_error"], error)
    images, wanted = (Identity().decode(one, clamp=False) for one in (found, batch.x0))
    torch.testing.assert_close(
        late.terms["instaflow"], distance(images, wanted).float() + 2 * error, rtol=1e-5, atol=1e-5
    )


def test_a_perceptual_term_looks_at_what_the_method_wants_and_leaves_the_teacher_alone():
    term = Perceptual(TermWeight(0.5, 10), Difference())
    rounds = {"first": 2, "last": 2, "total": 10, "shift": None, "start": 1.0, "scale": None}
    student, taught = line(), line(a=0.6)
    batch, rng = pairs()
    for method in (reflow(terms={"perceptual": term}), Progressive(terms={"perceptual": term}, **rounds)):
        bound(method, student, autoencoder=Identity(), teacher=taught)
        losses = method(batch, rng)
        x, t, _ = student.backbone.calls[-1]
        made = student(x, t, batch.condition).x0
        wanted = batch.x0
        if isinstance(method, Progressive):
            wanted, _ = method.target(batch, x, method.times(rng, 2), 0)
            assert (wanted - batch.x0).abs().mean() > 0.1, "another target than the data"
        seen = Difference()(*(Identity().decode(one, clamp=False) for one in (made, wanted)))
        torch.testing.assert_close(losses.terms["perceptual"], seen.float(), rtol=1e-5, atol=1e-5)
        losses.weighted["perceptual"].mean().backward()
        assert float(student.backbone.a.grad) != 0 and taught.backbone.a.grad is None
        student.zero_grad()


class Painted(Identity):
    """An autoencoder whose decoder has a weight that could learn."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def decode(self, z, *, clamp=True):
        return self.gain * z


class Watching(Difference):
    def forward(self, images, target):
        assert images.requires_grad and not target.requires_grad
        return super().forward(images, target)


def test_only_the_image_of_the_student_has_a_gradient_and_notes_have_none():
    term = Perceptual(TermWeight(0.5, 10), Watching())
    beside = bound(reflow(terms={"perceptual": term}), line(), autoencoder=Painted())
    assert beside(*pairs()).terms["perceptual"].requires_grad
    method = bound(instaflow(Watching(), warmup=0.0, weight=1.0), line(), autoencoder=Painted())
    losses = method(*pairs())
    assert losses.terms["instaflow"].requires_grad and not losses.notes["latent_error"].requires_grad


@pytest.mark.parametrize("path", [Linear(), VE(50.0)], ids=lambda path: type(path).__name__)
def test_the_student_is_asked_about_pure_noise_at_time_1(path):
    student = line(path, Eps() if isinstance(path, VE) else None)
    batch, rng = pairs()
    bound(instaflow(), student)(batch, rng)
    x, t, _ = student.backbone.calls[0]
    assert torch.equal(x, batch.eps * path.prior_std) and bool((t == 1).all())


def test_times_that_would_have_to_learn_from_the_loss_are_refused():
    with pytest.raises(ValueError, match="timestep=loss_aware"):
        Reflow(LossAware(), steps=4, at_steps=False, shift=None)
