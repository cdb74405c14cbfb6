"""sCM: its tangent on Gaussian data in closed form, and its derivative through the Denoiser."""

import pytest
import torch

from t2ilab.core import attention
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.discrete import Discrete
from t2ilab.core.jvp import jvp
from t2ilab.core.path import Linear, Trig, VPCosine
from t2ilab.core.prediction import EDM, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.models.dit import DiT
from t2ilab.models.injection import inject
from t2ilab.models.unet import UNet
from t2ilab.objectives.distill.scm import SCM, on_path, velocity
from tests.models.test_adapters import KINDS, train_
from tests.objectives.distill.distributions import MEAN, SHAPE, batch_of, bound, line, teacher
from tests.objectives.distill.test_smaller import DIT, UNET, loud
from tests.oracles import gaussian, oracle, texts

SCALED = Discrete(0.00085, 0.012, power=2.0)
OPTIONS = {"teacher": True, "mean": -1.0, "std": 1.4, "warmup": 0, "steps": 2, "shift": None, "scale": None}


def scm(**more):
    return SCM(**OPTIONS | more)


def angles(rows=16):
    return torch.linspace(0.1, 1.45, rows, dtype=torch.float64)


@pytest.mark.parametrize("path", [Linear(), Trig(), VPCosine(), SCALED], ids=lambda p: type(p).__name__)
def test_the_circle_is_the_path_on_another_scale(path):
    x = batch_of()[0].x0
    x_t, t = on_path(path, x, angles())
    torch.testing.assert_close(path.sigma(t) / path.alpha(t), angles().tan())
    estimate = oracle(gaussian(), path, Velocity())(x_t, t, texts(16))
    cos, sin = (f(angles()).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    torch.testing.assert_close(cos * x - sin * velocity(estimate, angles()), estimate.x0)


@pytest.mark.parametrize("path", [Linear(), Trig(), SCALED], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("std", [0.3, 0.5, 1.2])
def test_the_tangent_of_the_exact_function_is_zero(path, std):
    def distribution(x, alpha, sigma, cond):
        x0 = MEAN + std / torch.sqrt(alpha**2 * std**2 + sigma**2) * (x - alpha * MEAN)
        return x0, (x - alpha * x0) / sigma

    x, angle = batch_of()[0].x0, angles()
    taught = oracle(gaussian(MEAN, std), path, Velocity())
    u = velocity(taught(*on_path(path, x, angle), texts(16)), angle)
    method = bound(scm(), oracle(distribution, path, Velocity()), taught)
    assert float(method.change(x, angle, u, texts(16), 1.0).abs().max()) < 1e-9
    assert float(method.change(x, angle, -u, texts(16), 1.0).abs().max()) > 1e-3
    g = method.change(x, angle, u, texts(16), 0.0)  # before the warm-up: the velocity alone
    cos = angle.cos().view(-1, 1, 1, 1)
    own = velocity(method.student(*on_path(path, x, angle), texts(16)), angle)
    torch.testing.assert_close(g, -(cos**2) * (own - u))


def test_the_velocity_of_unit_data_with_mean_0_is_minus_the_tangent_of_half_the_angle():
    def distribution(x, alpha, sigma, cond):
        x0 = x / torch.hypot(alpha, sigma)
        return x0, (x - alpha * x0) / sigma

    x, angle = batch_of()[0].x0, angles()
    estimate = oracle(distribution, Linear(), Velocity())(*on_path(Linear(), x, angle), texts(16))
    torch.testing.assert_close(velocity(estimate, angle), -torch.tan(angle / 2).view(-1, 1, 1, 1) * x)


def test_no_angle_lies_beyond_the_noise_that_the_path_has():
    student = line(SCALED)
    batch, rng = batch_of(rows=256)
    loss = bound(scm(mean=2.0), student, teacher(SCALED))(batch, rng).total
    _, t, _ = student.backbone.calls[-1]
    assert loss.isfinite().all() and 0.999 < float(t.max()) <= 1


@pytest.mark.parametrize("path", [Linear(), SCALED], ids=lambda p: type(p).__name__)
def test_the_tangent_is_the_change_of_the_function_along_the_trajectory(path):
    student = line(path)
    method = bound(scm(), student, teacher(path))
    x, angle, h = batch_of()[0].x0, angles(), 1e-5
    u = batch_of(seed=4)[0].x0

    def end(step):
        return student(*on_path(path, x + step * u, angle + step), texts(16)).x0

    cos = angle.cos().view(-1, 1, 1, 1)
    torch.testing.assert_close(
        method.change(x, angle, u, texts(16), 1.0), cos * (end(h) - end(-h)) / (2 * h), rtol=1e-6, atol=1e-6
    )


def test_the_gradient_moves_the_output_along_the_tangent_and_its_norm_stays_below_1():
    student = line()
    method = bound(scm(), student)
    batch, rng = batch_of()
    losses = method(batch, rng)
    losses.total.sum().backward()
    x_t, t, _ = student.backbone.calls[-1]
    angle = torch.atan(t / (1 - t))
    x = x_t / torch.hypot(t, 1 - t).view(-1, 1, 1, 1)
    u = velocity(method.guided(batch, x_t, t), angle)
    g = method.tangent(x, angle, u, batch.condition, 0)
    assert float(g.flatten(1).norm(dim=1).max()) < 1
    found = velocity(student(x_t, t, batch.condition), angle)
    wanted = torch.autograd.grad((found * (-2 * g)).flatten(1).mean(1).sum(), student.backbone.b)[0]
    assert float(student.backbone.b.grad) == pytest.approx(float(wanted), rel=1e-4)
    torch.testing.assert_close(
        losses.terms["scm"].double(), g.square().flatten(1).mean(1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("taught", [True, False])
def test_states_lie_on_the_circle_between_data_and_noise_and_move_along_it(taught):
    """x = cos a x0 + sin a eps; without a teacher the velocity is that of the circle, cos a eps - sin a x0."""
    student = line()
    method = bound(scm(teacher=taught), student)
    batch, rng = batch_of()
    losses = method(batch, rng)
    x_t, t, _ = student.backbone.calls[-1]
    angle = torch.atan(t / (1 - t))
    cos, sin = (f(angle).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    x, eps = x_t / torch.hypot(t, 1 - t).view(-1, 1, 1, 1), rng.normal("noise", *SHAPE)
    torch.testing.assert_close(x, cos * batch.x0 + sin * eps, rtol=1e-4, atol=1e-5)
    if not taught:
        g = method.tangent(x, angle, cos * eps - sin * batch.x0, batch.condition, 0)
        torch.testing.assert_close(
            losses.terms["scm"].double(), g.square().flatten(1).mean(1), rtol=1e-3, atol=1e-6
        )


def test_the_derivative_comes_in_over_the_warm_up():
    method, plain = bound(scm(warmup=4), line()), bound(scm(), line())
    batch, _ = batch_of()
    at = [
        bound_.tangent(batch.x0, angles(), batch.x0, batch.condition, step)
        for bound_, step in ((method, 4), (plain, 0))
    ]
    assert torch.equal(*at)
    assert not torch.equal(at[0], method.tangent(batch.x0, angles(), batch.x0, batch.condition, 1))


@pytest.mark.parametrize("kernel", [attention.plain, attention.fused], ids=lambda f: f.__name__)
@pytest.mark.parametrize("prediction", [Velocity(), EDM(1.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("kind", "sizes"), [(DiT, DIT), (UNet, UNET)], ids=["dit", "unet"])
def test_the_derivative_through_a_network_is_that_of_float64_differences(
    kind, sizes, prediction, kernel, monkeypatch
):
    monkeypatch.setattr(attention, "plain", kernel)  # what `attend` takes on a CPU
    check_derivative(Denoiser(loud(kind(**sizes)), Linear(), prediction), monkeypatch)


def test_the_derivative_passes_through_an_adapter_that_has_learned(monkeypatch):
    backbone = loud(DiT(**DIT))
    inject(backbone, KINDS["lora"])
    check_derivative(Denoiser(train_(backbone), Linear(), Velocity()), monkeypatch)


def check_derivative(network, monkeypatch):
    """Holds the derivative of a network against float64 differences."""
    network = network.double()
    rng = RowRng(2, 0, torch.arange(3), 3)
    x, tangent = (rng.normal(name, 2, 4, 4, dtype=torch.float64) for name in ("x", "tangent"))
    cond = Condition(rng.normal("text", 5, 3, dtype=torch.float64), torch.ones(3, 5, dtype=torch.bool))
    monkeypatch.setattr(
        torch.Tensor, "float", torch.Tensor.double
    )  # networks fix float32; differences want more

    def function(state, t):
        return network(state, t, cond).out

    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    speed = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    _, change = jvp(function, (x, t), (tangent, speed))
    h = 1e-6  # networks are told 1000 t
    with torch.no_grad():
        difference = (function(x + h * tangent, t + h * speed) - function(x - h * tangent, t - h * speed)) / (
            2 * h
        )
    torch.testing.assert_close(change, difference, rtol=1e-3, atol=1e-3 * float(difference.abs().max()))


@pytest.mark.slow
def test_it_learns_the_function_of_unit_gaussian_data():
    """F = c(a) x with a polynomial c goes to -tan(a / 2) x, whatever it starts from."""
    from torch import nn

    class Polynomial(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.zeros(6))

        def forward(self, x, time, cond, taps=()):
            angle = time * torch.pi / 2
            powers = torch.stack([angle**k for k in range(6)], -1)
            return (powers @ self.c).view(-1, 1, 1, 1) * x * torch.pi / 2, {}

    student = Denoiser(Polynomial(), Trig(), Velocity(), time_scale=1.0)
    method = bound(scm(teacher=False), student)
    adam = torch.optim.Adam(student.parameters(), lr=0.01)
    from t2ilab.core.types import Batch

    for step in range(1500):
        rng = RowRng(0, step, torch.arange(256), 256)
        method(Batch(rng.normal("data", 2, 2, 2), texts(256)), rng).total.mean().backward()
        adam.step()
        adam.zero_grad()
    angle = torch.tensor([0.1, 0.45, 0.8, 1.15, 1.5])
    found = torch.stack([angle**k for k in range(6)], -1) @ student.backbone.c.detach()
    torch.testing.assert_close(found, -torch.tan(angle / 2), rtol=0, atol=0.04)
