"""The sampler of students: its kinds in closed form and against diffusers, and its times."""

import pytest
import torch
from torch import nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import CFG, Embedded
from t2ilab.core.numbers import NumberInputs, add_numbers
from t2ilab.core.path import Linear, Trig, like_rows
from t2ilab.core.prediction import Eps, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Euler
from t2ilab.sampling.student import Student
from tests.oracles import Recorder, gaussian, oracle, texts

SHAPE = (2, 4, 4)
TIMES = [1.0, 0.8, 0.4, 0.1]


def noise(rows=8):
    return RowRng(5, 0, torch.arange(rows), rows).normal("noise", *SHAPE)


def test_an_ode_student_at_even_times_is_the_euler_sampler():
    denoiser = oracle(gaussian(), Linear(), Velocity())
    ours = Student("ode", [1.0, 0.75, 0.5, 0.25])(denoiser, noise().double(), texts(8))
    other = Euler(Grid(4))(denoiser, noise().double(), texts(8))
    torch.testing.assert_close(ours.x, other.x)
    assert ours.nfe == 4


class MeanVelocity(nn.Module):
    """u(x, t, r) of Gaussian data: the exact jump from t to the time that it is told."""

    reads = ("until",)

    def forward(self, x, time, cond, taps=()):
        t, r = like_rows(time, x), like_rows(cond.numbers["until"].to(x), x)
        v_t, v_r = ((1 - s) ** 2 * 0.25 + s**2 for s in (t, r))
        end = (1 - r) * 0.7 + torch.sqrt(v_r / v_t) * (x - (1 - t) * 0.7)
        return (x - end) / (t - r), {}


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.5], TIMES])
def test_a_flow_map_ends_where_the_trajectory_does_with_any_times(times):
    denoiser = Denoiser(MeanVelocity(), Linear(), Velocity(), time_scale=1.0)
    x = Student("flow_map", times)(denoiser, noise().double(), texts(8)).x
    torch.testing.assert_close(x, 0.7 + 0.5 * noise().double())


def test_a_network_that_is_not_told_where_a_step_ends_is_no_flow_map():
    denoiser = Denoiser(Recorder(), Linear(), Velocity())
    with pytest.raises(ValueError, match="no input for until"):
        Student("flow_map", [1.0])(denoiser, noise(), texts(8))


@pytest.mark.parametrize("kind", ["one_step", "renoise", "ode"])
def test_call_j_gets_what_the_formula_of_the_kind_makes_of_call_before(kind):
    times = [1.0] if kind == "one_step" else TIMES
    backbone = Recorder()
    denoiser = Denoiser(backbone, Linear(), Velocity(), time_scale=1.0)
    rng = RowRng(1, 0, torch.arange(8), 8)
    x = Student(kind, times)(denoiser, noise(), texts(8), rng=rng).x
    assert [round(float(time[0]), 6) for _, time, _ in backbone.calls] == times
    state = noise()
    streams = rng.normal_of_each([0], "sampler", 16, *SHAPE)[:, 0]
    for j, (given, time, _) in enumerate(backbone.calls):
        torch.testing.assert_close(given, state)
        t = float(time[0])
        x0, eps = state - t * 0.5 * state, state + (1 - t) * 0.5 * state
        r = [*times, 0.0][j + 1]
        state = (1 - r) * x0 + r * (streams[:, j] if kind == "renoise" else eps)
    torch.testing.assert_close(x, state)


@pytest.mark.parametrize(
    ("kind", "scheduler"), [("ode", "FlowMatchEulerDiscrete"), ("renoise", "FlowMatchLCM")]
)
def test_diffusers_draws_the_same_with_the_times_as_sigmas(kind, scheduler, monkeypatch):
    import diffusers

    denoiser = Denoiser(Recorder(), Linear(), Velocity(), time_scale=1000.0)
    made = getattr(diffusers, f"{scheduler}Scheduler")()
    made.set_timesteps(sigmas=TIMES)
    rng = RowRng(1, 0, torch.arange(8), 8)
    streams = rng.normal_of_each([0], "sampler", 16, *SHAPE)[:, 0]
    drawn = iter(streams.unbind(1))
    module = __import__(type(made).__module__, fromlist=["x"])
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn), raising=False)
    x = noise()
    for t in made.timesteps:
        x = made.step(0.5 * x, t, x).prev_sample
    ours = Student(kind, TIMES)(denoiser, noise(), texts(8), rng=rng).x
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_other_numbers_of_steps_divide_the_range_as_the_own_times_do():
    student = Student("renoise", [1.0, 0.5])
    assert student.at(2) is student
    assert student.at(4).grid.given == (1.0, 0.75, 0.5, 0.25) and student.at(1).grid.given == (1.0,)
    assert Student("one_step", [1.0]).at(2).kind == "ode"
    assert (
        student.is_stochastic and not student.at(1).is_stochastic and not Student("ode", TIMES).is_stochastic
    )


@pytest.mark.parametrize("times", [[], [0.5, 0.5], [1.1], [0.5, 0.0], [0.2, 0.8]])
def test_times_that_do_not_fall_are_refused(times):
    with pytest.raises(ValueError, match=r"sampler\.times must be falling times"):
        Student("ode", times)


def test_a_network_that_says_nothing_about_the_data_at_1_is_refused_there():
    with pytest.raises(ValueError, match=r"let sampler\.times begin below 1"):
        Student("ode", [1.0]).check(Trig(), Eps())


class Told(nn.Module):
    """Answers with its text tokens' sum; has inputs for numbers."""

    def forward(self, x, time, cond, taps=()):
        return x + cond.tokens.sum((1, 2))[:, None, None, None] + cond.pooled.sum(1)[:, None, None, None], {}


def a_told_denoiser():
    backbone = Told()
    add_numbers(backbone, ("guidance",), {"dim": 3, "pooled_dim": 2})
    return Denoiser(backbone, Linear(), Velocity())


def condition(rows):
    return Condition(torch.ones(rows, 2, 3), torch.ones(rows, 2, dtype=torch.bool), torch.ones(rows, 2))


def test_a_new_input_for_a_number_changes_nothing_until_it_is_trained_and_nothing_at_its_default():
    denoiser = a_told_denoiser()
    plain = Denoiser(Told(), Linear(), Velocity())
    x, t = noise(), torch.full((8,), 0.5)
    wanted = plain(x, t, condition(8)).out
    assert torch.equal(denoiser(x, t, condition(8).told(guidance=3.0)).out, wanted)
    inputs = denoiser.backbone.number_embed
    assert isinstance(inputs, NumberInputs)
    for p in inputs.parameters():
        nn.init.constant_(p, 0.1)
    assert torch.equal(denoiser(x, t, condition(8)).out, wanted)  # no guidance
    assert torch.equal(denoiser(x, t, condition(8).told(guidance=1.0)).out, wanted)
    assert not torch.equal(denoiser(x, t, condition(8).told(guidance=3.0)).out, wanted)


def test_a_scale_as_input_costs_one_evaluation_and_wants_a_network_that_is_told_it():
    drawn = Student("ode", TIMES)(a_told_denoiser(), noise(), condition(8), guidance=Embedded(3.0))
    assert drawn.nfe == 4
    with pytest.raises(ValueError, match="guidance=embedded: this network is not told the scale"):
        Student("ode", TIMES)(
            Denoiser(Recorder(), Linear(), Velocity()), noise(), texts(8), guidance=Embedded(2.0)
        )


def test_numbers_stay_with_their_rows_and_pass_to_the_empty_text():
    told = condition(3).told(guidance=torch.tensor([1.0, 2.0, 3.0]))
    assert told[torch.tensor([2, 0])].numbers["guidance"].tolist() == [3.0, 1.0]
    keep = torch.tensor([True, False, True])
    assert told.where(keep, condition(1)).numbers["guidance"].tolist() == [1.0, 2.0, 3.0]
    assert told.cat(condition(3)).numbers["guidance"].tolist() == [1.0, 2.0, 3.0] * 2
    assert (
        CFG(2.0)
        .bind(a_told_denoiser(), told, condition(1))
        .told(guidance=2.0)
        .both.numbers["guidance"]
        .tolist()
        == [2.0] * 6
    )
