"""Progressive and guidance distillation on distributions whose steps are known."""

import pytest
import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.discrete import Discrete
from t2ilab.core.guidance import CFG
from t2ilab.core.path import Linear, Trig, VPCosine, like_rows
from t2ilab.core.prediction import V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch
from t2ilab.objectives.distill.base import moved
from t2ilab.objectives.distill.guidance import GuidanceDistillation
from t2ilab.objectives.distill.progressive import Progressive, one_step
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Euler
from t2ilab.sampling.student import Student
from tests.objectives.distill.distributions import MEAN, SHAPE, STD, batch_of, bound, line, straight, teacher
from tests.oracles import oracle, texts

OPTIONS = {"total": 8, "shift": None, "start": 1.0, "scale": None}


def progressive(first=4, last=2, **more):
    return Progressive(first=first, last=last, **OPTIONS | more)


def test_on_the_linear_path_a_deterministic_step_is_a_step_of_euler():
    batch, _ = batch_of()
    t, r = torch.full((16,), 0.8, dtype=torch.float64), torch.full((16,), 0.3, dtype=torch.float64)
    estimate = line()(batch.x0, t, batch.condition)
    torch.testing.assert_close(moved(estimate, r), batch.x0 - 0.5 * estimate.velocity())


@pytest.mark.parametrize(
    "path", [Linear(), VPCosine(), Trig(), Discrete(1e-4, 0.02)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("end", [0.0, 0.4])
def test_the_target_of_a_round_leads_in_one_step_to_where_two_steps_lead(path, end):
    x, x_r = (batch_of(seed=seed)[0].x0 for seed in (1, 2))
    t, r = torch.full((16,), 0.9, dtype=torch.float64), torch.full((16,), end, dtype=torch.float64)
    x0, eps = one_step(path, x, x_r, t, r)
    alpha, sigma = like_rows(path.alpha(r), x), like_rows(path.sigma(r), x)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_r, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.mix(x0, eps, t), x, rtol=1e-9, atol=1e-9)


def test_the_target_on_the_linear_path_is_the_mean_of_both_velocities():
    student, taught = line(), teacher()
    method = bound(progressive(), student, taught)
    batch, rng = batch_of()
    t, m, r = (time.double() for time in method.times(rng, 4))
    x_t = method.path.mix(batch.x0, rng.normal("noise", *SHAPE, dtype=torch.float64), t)
    x0, eps = method.target(batch, x_t, (t, m, r), 0)
    first = taught(x_t, t, batch.condition).velocity()
    second = taught(x_t - like_rows(t - m, x_t) * first, m, batch.condition).velocity()
    torch.testing.assert_close(eps - x0, (first + second) / 2)


def test_a_student_of_a_teacher_with_straight_trajectories_has_nothing_to_learn():
    method = bound(progressive(first=8, last=1), straight(), straight())
    for step in range(8):
        batch, rng = batch_of(step=step)
        assert float(method(batch, rng).terms["progressive"].max()) < 1e-9
    drawn = Student("ode", method.drawing(method.path).times)
    noise = batch_of()[0].x0
    torch.testing.assert_close(drawn(straight(), noise, texts(16)).x, MEAN + STD * noise)


class TwoSteps(nn.Module):
    """A student of `count` steps, each of which leads exactly where two of the one before lead."""

    def __init__(self, before, count):
        super().__init__()
        self.before, self.count = before, count

    def forward(self, x, t, cond, taps=()):
        m, r = t - 0.5 / self.count, t - 1 / self.count
        middle = moved(self.before(x, t, cond), m)
        x0, eps = one_step(Linear(), x, moved(self.before(middle, m, cond), r), t, r)
        return eps - x0, {}


def test_after_rounds_without_loss_one_step_is_all_steps_of_the_first_teacher():
    student, noise = teacher(), batch_of(seed=5)[0].x0
    for count in (4, 2, 1):
        before = student
        student = Denoiser(TwoSteps(before, count), Linear(), Velocity(), time_scale=1.0)
        method = bound(progressive(first=count, last=count, total=1), student, before)
        assert float(method(*batch_of(step=0)).terms["progressive"].max()) < 1e-12
    drawn = Student("one_step", [1.0])(student, noise, texts(16)).x
    torch.testing.assert_close(drawn, Euler(Grid(8))(teacher(), noise, texts(16)).x)
    assert (drawn - MEAN - STD * noise).abs().max() > 0.1, "eight steps of Euler are not the exact way"


def test_rounds_are_functions_of_the_step_and_take_the_student_of_before_as_teacher():
    student = line(a=0.2)
    method = bound(progressive(first=8, last=2), student)
    assert [method.round_at(step) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [step for step in range(9) if method.begins(step)] == [3, 6]
    assert [method.place(step, 8) for step in (0, 2, 3, 7)] == [(0, 3), (2, 3), (0, 3), (1, 2)]
    batch, rng = batch_of(step=2)
    method(batch, rng)
    with torch.no_grad():
        student.backbone.a.fill_(0.9)
    for step in (3, 4):
        method(batch, RowRng(7, step, torch.arange(16), 16))
        assert float(method.before.network.backbone.a) == 0.9  # not that of the next steps
        with torch.no_grad():
            student.backbone.a.fill_(0.5)
    assert not any(p.requires_grad for p in method.parameters())
    for step, number in ((0, 1.0), (3, 2.0), (7, 3.0)):
        losses = method(batch, RowRng(7, step, torch.arange(16), 16))
        assert losses.notes["round"].tolist() == [number] * 16


def test_guidance_is_applied_in_the_first_round_only():
    method = bound(progressive(scale=3.0), line())
    counts = []
    for step in (0, 7):
        batch, rng = batch_of(step=step, value=1.0)
        calls = []
        handle = method.teacher.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        method(batch, rng)
        handle.remove()
        counts.append(len(calls))
    assert counts == [2, 0]


def test_the_sampler_asks_the_student_at_times_it_was_trained_at_and_with_nothing_else():
    student = line()
    method = bound(progressive(first=16, last=4, total=3, shift=2.2), student)
    batch, rng = batch_of(rows=64, step=2)
    method(batch, rng)
    trained = {round(float(t), 6) for t in student.backbone.calls[0][1]}
    student.backbone.calls.clear()
    drawing = method.drawing(method.path)
    Student(drawing.kind, drawing.times)(student, batch.x0[:4], batch.condition[:4])
    asked = [round(float(time[0]), 6) for _, time, _ in student.backbone.calls]
    assert len(asked) == 4 and set(asked) == trained
    assert all(not cond.numbers for _, _, cond in student.backbone.calls)


@pytest.mark.parametrize("counts", [(6, 4), (4, 3), (2, 4)])
def test_steps_that_cannot_be_halved_are_refused(counts):
    with pytest.raises(ValueError, match="times a power of 2"):
        progressive(*counts)


def guided_distribution(mean=MEAN, std=STD):
    """What a Gaussian teacher says under guidance of the scale that it is told: its mean moves by scale x shift."""

    def distribution(x, alpha, sigma, cond):
        middle = mean + like_rows(cond.numbers.get("guidance", 3.0) * cond.pooled[:, 0], x)
        centred = x - alpha * middle
        variance = alpha**2 * std**2 + sigma**2
        return middle + alpha * std**2 / variance * centred, sigma / variance * centred

    return distribution


def a_guided_student(path, prediction):
    student = oracle(guided_distribution(), path, prediction)
    student.backbone.reads = ("guidance",)
    return student


@pytest.mark.parametrize(("path", "prediction"), [(Linear(), Velocity()), (VPCosine(), V())])
@pytest.mark.parametrize("options", [{"scale": 3.0, "scales": None}, {"scale": None, "scales": [1.0, 4.0]}])
def test_a_student_that_answers_as_the_guided_teacher_has_no_loss(path, prediction, options):
    method = GuidanceDistillation(Uniform(), **options)
    bound(method, a_guided_student(path, prediction), teacher(path, prediction))
    batch, rng = batch_of(value=0.8)
    assert float(method(batch, rng).terms["guidance"].max()) < 1e-9
    other = GuidanceDistillation(Uniform(), scale=2.0, scales=None)
    bound(other, a_guided_student(path, prediction), teacher(path, prediction))
    if options["scales"] is None:
        assert float(other(batch, rng).terms["guidance"].min()) > 1e-3


def test_the_rule_of_the_export_guides_where_no_scale_is_given():
    method = bound(GuidanceDistillation(Uniform(), scale=None, scales=None), line(), guidance=CFG(3.0))
    batch, _ = batch_of(value=1.0)
    t = torch.full((16,), 0.5, dtype=torch.float64)
    wanted = a_guided_student(Linear(), Velocity())(batch.x0, t, batch.condition).out
    torch.testing.assert_close(
        method.guided(Batch(batch.x0, batch.condition, batch.null), batch.x0, t).out, wanted
    )
