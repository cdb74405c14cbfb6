"""The schedulers that exports of students name draw as the students do, in diffusers' own classes."""

import json

import pytest
import torch

from t2ilab.build import build
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.rng import RowRng
from t2ilab.export.scheduler import scheduler_config, scheduler_facts, scheduler_of
from t2ilab.sampling.student import Student
from tests.oracles import Recorder

SHAPE = (2, 4, 4)
EVEN, UNEVEN, BETWEEN = [1.0, 0.75, 0.5, 0.25], [1.0, 0.8, 0.3], [1.0, 0.7123, 0.31234]
LINEAR = {"_target_": "t2ilab.core.path.Linear"}
TRIG = {"_target_": "t2ilab.core.path.Trig"}
COSINE = {"_target_": "t2ilab.core.path.VPCosine", "shift": 0.008}
VP = {"_target_": "t2ilab.core.path.VPLinear", "beta_min": 0.1, "beta_max": 20.0}
BETAS = {"_target_": "t2ilab.core.discrete.Discrete", "beta_start": 0.00085, "beta_end": 0.012, "steps": 1000}
SD = BETAS | {"power": 2.0, "zero_terminal_snr": False}
ZERO = BETAS | {"power": 2.0, "zero_terminal_snr": True}
DDPM = BETAS | {"power": 1.0, "zero_terminal_snr": False}


def nodes(path, prediction, kind, times):
    return {
        "path": path,
        "prediction": {"_target_": f"t2ilab.core.prediction.{prediction}"},
        "sampler": {"_target_": "t2ilab.sampling.student.Student", "kind": kind, "times": times},
    }


def noise():
    return RowRng(5, 0, torch.arange(8), 8).normal("noise", *SHAPE)


def drawn_by_us(parts):
    denoiser = Denoiser(Recorder(), build(parts["path"]), build(parts["prediction"]))
    return build(parts["sampler"])(denoiser, noise(), rng=RowRng(1, 0, torch.arange(8), 8)).x


def drawn_by_diffusers(parts, monkeypatch):
    """The network says half of its input, at whatever time."""
    import diffusers

    known = json.loads(json.dumps(scheduler_config(parts)))
    made = getattr(diffusers, known["_class_name"]).from_config(known)
    made.set_timesteps(**scheduler_of(parts).given)
    streams = RowRng(1, 0, torch.arange(8), 8).normal_of_each([0], "sampler", 16, *SHAPE)[:, 0]
    drawn = iter(streams.unbind(1))
    module = __import__(type(made).__module__, fromlist=["x"])
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn), raising=False)
    count = len(parts["sampler"]["times"])
    x = noise() * getattr(made, "init_noise_sigma", 1.0)
    for t in made.timesteps[:count]:
        out = 0.5 * made.scale_model_input(x, t) if hasattr(made, "scale_model_input") else 0.5 * x
        x = made.step(out, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("student", "name"),
    [
        ((LINEAR, "Velocity", "ode", UNEVEN), "FlowMatchEulerDiscrete"),
        ((LINEAR, "Velocity", "renoise", BETWEEN), "FlowMatchLCM"),
        ((LINEAR, "Velocity", "one_step", [1.0]), "FlowMatchEulerDiscrete"),
        ((SD, "Eps", "renoise", UNEVEN), "LCM"),
        ((ZERO, "V", "renoise", EVEN), "LCM"),
        ((COSINE, "X0", "renoise", UNEVEN), "LCM"),
        ((DDPM, "Eps", "one_step", [1.0]), "LCM"),
        ((TRIG, "X0", "renoise", EVEN), "LCM"),
        ((SD, "V", "ode", EVEN), "DDIM"),
        ((ZERO, "V", "ode", EVEN), "DDIM"),
        ((COSINE, "V", "ode", [1.0, 0.5]), "DDIM"),
        ((TRIG, "V", "ode", EVEN), "DDIM"),
        ((SD, "Eps", "ode", BETWEEN), "EulerDiscrete"),
        ((VP, "V", "ode", UNEVEN), "EulerDiscrete"),
        ((COSINE, "Eps", "ode", [0.98, 0.5]), "EulerDiscrete"),
        ((TRIG, "V", "renoise", BETWEEN), "SCM"),
        ((TRIG, "V", "one_step", [1.0]), "SCM"),
    ],
)
def test_diffusers_own_class_draws_what_the_student_draws(student, name, monkeypatch):
    *of, times = student
    parts = nodes(*of, times)
    assert scheduler_of(parts).name == f"{name}Scheduler"
    facts = scheduler_facts(parts)["diffusers"]
    assert facts["scheduler"] == f"{name}Scheduler" and "why" not in facts
    ours = drawn_by_us(parts)
    theirs = drawn_by_diffusers(parts, monkeypatch)
    scale = float(ours.abs().max())
    assert (theirs - ours).abs().max() < 2e-4 * scale, "float32 products of a thousand betas"
    others = nodes(*of, [t * 0.9 for t in times])
    assert (drawn_by_us(others) - ours).abs().max() > 1e-2 * scale, "times matter"


@pytest.mark.parametrize(
    ("path", "prediction", "kind", "times", "why"),
    [
        (
            {"_target_": "t2ilab.core.path.VE"},
            "EDM",
            "renoise",
            EVEN,
            "no scheduler of kind=renoise for path=VE",
        ),
        (TRIG, "Velocity", "ode", EVEN, "path=Trig with prediction=Velocity"),
        (SD, "Eps", "renoise", BETWEEN, "no steps of 1000, a shift of 1 makes some"),
        (COSINE, "V", "ode", UNEVEN, "no data at the first time"),
        (VP, "V", "flow_map", EVEN, "flow maps are of the linear path"),
    ],
)
def test_a_student_that_diffusers_cannot_draw_says_why(path, prediction, kind, times, why):
    parts = nodes(path, prediction, kind, times)
    assert list(scheduler_config(parts)) == ["t2ilab"]
    facts = scheduler_facts(parts)["diffusers"]
    assert facts["scheduler"] is None and why in facts["why"]


def test_exports_of_other_samplers_say_nothing_of_it():
    grid = {"_target_": "t2ilab.sampling.grid.Grid", "steps": 4, "shift": 2.2}
    parts = nodes(LINEAR, "Velocity", "ode", EVEN)
    parts["sampler"] = {"_target_": "t2ilab.sampling.ode.Euler", "grid": grid}
    assert scheduler_facts(parts) == {} and scheduler_of(parts).given == {}
    assert scheduler_config(parts)["shift"] == 2.2
    assert Student("ode", EVEN).grid.given == tuple(EVEN)
