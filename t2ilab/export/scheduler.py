"""The scheduler of diffusers that draws as a sampler of ours does, for exports.

A student's times are a part of it, and no spacing of diffusers makes them all, so the config carries what has to be
given to `set_timesteps`. With sigma_i / alpha_i the noise level at time t_i, k_i = N t_i - 1 the step that it stands
for, and theta_i = pi t_i / 2:

    path                  prediction     kind                scheduler                 set_timesteps
    linear                velocity       one_step, ode       FlowMatchEulerDiscrete    sigmas = t_i
    linear                velocity       renoise             FlowMatchLCM              sigmas = t_i
    linear                velocity       flow_map            FlowMapEulerDiscrete      sigmas = t_i
    trig                  v              one_step, renoise   SCM                       timesteps = theta_i and 0
    variance preserving   eps, v, x0     one_step, renoise   LCM                       timesteps = k_i, whole numbers
    variance preserving   eps, v, x0     ode                 DDIM, trailing            num_inference_steps, t_i even
    variance preserving   eps, v, x0     ode                 EulerDiscrete             sigmas, and 0 at last

The betas are those of the path at its steps. Networks are told 1000 t here and k in diffusers' pipelines, unless
they were made to be told k (`time_offset` -1 in the manifest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from t2ilab.build import Config, Node, build, locate
from t2ilab.core.discrete import Discrete
from t2ilab.core.path import Path, Trig, VariancePreserving
from t2ilab.sampling.student import Student

EULER = "FlowMatchEulerDiscreteScheduler"
ON_LINEAR = {"renoise": "FlowMatchLCMScheduler", "flow_map": "FlowMapEulerDiscreteScheduler"}
PREDICTIONS = {"Eps": "epsilon", "V": "v_prediction", "X0": "sample"}
NAMES = {1.0: "linear", 2.0: "scaled_linear"}  # of betas that are even in their power 1 / p
STEPS = 1000
NO_BOUNDARY = 1e6  # of LCM's timestep_scaling: x0 as it is, where c_skip would mix in 7e-6 of x


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of diffusers.

    Attributes:
        name: of its class; None where none draws the same.
        config: what it is made with.
        given: what `set_timesteps` takes.
        why: reason that there is none; empty where there is one.
    """

    name: str | None
    config: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def scheduler_of(nodes: Mapping[str, Node]) -> Scheduler:
    """What draws as the sampler of these config nodes (path, prediction, sampler).

    Of samplers with many steps only those of rectified flow have one, Euler's, which is the nearest and not the same.
    """
    sampler = nodes["sampler"]
    if is_rectified_flow(nodes):
        own = {"num_train_timesteps": STEPS, "shift": sampler.get("grid", {}).get("shift") or 1.0}
        name = ON_LINEAR.get(sampler.get("kind", ""), EULER)
        return Scheduler(name, own, {"sigmas": sampler["times"]} if "times" in sampler else {})
    if locate(sampler["_target_"]) is not Student:
        return Scheduler(None, why="only students and rectified flow are translated")
    made, path = build(sampler), build(nodes["path"])
    return _of_student(made.kind, made.grid.given, path, nodes["prediction"]["_target_"].rpartition(".")[2])


def is_rectified_flow(nodes: Mapping[str, Node]) -> bool:
    """Whether the network gives the velocity of the linear path, which diffusers' Euler scheduler integrates."""
    kinds = [nodes[name]["_target_"].rpartition(".")[2] for name in ("path", "prediction")]
    return kinds == ["Linear", "Velocity"]


def _of_student(kind: str, times: Sequence[float], path: Path, prediction: str) -> Scheduler:
    """The lower half of the table above."""
    fresh = kind == "renoise" or len(times) == 1
    if isinstance(path, Trig) and prediction == "V" and fresh and times[0] == 1:
        angles = [0.5 * math.pi * t for t in (*times, 0.0)]
        given = {"num_inference_steps": len(times), "timesteps": angles}
        none = {"max_timesteps": None, "intermediate_timesteps": None}
        return Scheduler("SCMScheduler", {"sigma_data": 1.0, "prediction_type": "trigflow"}, given | none)
    if not isinstance(path, VariancePreserving | Trig) or prediction not in PREDICTIONS:
        where = f"path={type(path).__name__} with prediction={prediction}"
        return Scheduler(None, why=f"diffusers has no scheduler of kind={kind} for {where}")
    if kind == "flow_map":
        return Scheduler(None, why="diffusers' flow maps are of the linear path")
    config = _betas(path) | {"prediction_type": PREDICTIONS[prediction]}
    steps = [config["num_train_timesteps"] * t - 1 for t in times]
    whole = times[0] == 1 and all(abs(k - round(k)) < 1e-6 for k in steps)
    plain = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    if fresh and whole:
        given = {"timesteps": [round(k) for k in steps]}
        return Scheduler("LCMScheduler", config | plain | {"timestep_scaling": NO_BOUNDARY}, given)
    if kind == "ode":
        return _of_ode(config, plain, times, path)
    return Scheduler(
        None, why=f"{list(times)} are no steps of {config['num_train_timesteps']}, a shift of 1 makes some"
    )


def _of_ode(config: Config, plain: dict[str, Any], times: Sequence[float], path: Path) -> Scheduler:
    """DDIM where its own trailing steps are meant, else the same step in the noise level, by Euler."""
    count, train = len(times), config["num_train_timesteps"]
    even = all(abs(t - (count - i) / count) < 1e-9 for i, t in enumerate(times))
    if even and train % count == 0:
        return Scheduler("DDIMScheduler", {**config, **plain}, {"num_inference_steps": count})
    t = torch.tensor(times, dtype=torch.float64)
    levels = path.sigma(t) / path.alpha(t)
    if not bool(levels.isfinite().all()):
        return Scheduler(
            None, why="there are no data at the first time, which only DDIM's own even steps can take"
        )
    spacing = "leading" if times[0] == 1 else "trailing"  # decides the scale of the first noise
    given = {"sigmas": [*levels.tolist(), 0.0]}
    return Scheduler("EulerDiscreteScheduler", {**config, "timestep_spacing": spacing}, given)


def _betas(path: Path) -> dict[str, Any]:
    """The noise of a variance-preserving path at the steps of diffusers."""
    if isinstance(path, Discrete) and path.power in NAMES:
        return {
            "num_train_timesteps": path.steps,
            "beta_start": path.beta_start,
            "beta_end": path.beta_end,
            "beta_schedule": NAMES[path.power],
            "rescale_betas_zero_snr": path.zero_terminal_snr,
        }
    kept = path.alpha(torch.arange(STEPS + 1, dtype=torch.float64) / STEPS).square()
    return {"num_train_timesteps": STEPS, "trained_betas": (1.0 - kept[1:] / kept[:-1]).tolist()}


def scheduler_config(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """`scheduler_config.json`: the scheduler where there is one, and the nodes that it is made from."""
    found = scheduler_of(nodes)
    known = {} if found.name is None else {"_class_name": found.name, **found.config, **found.given}
    return known | {"t2ilab": {name: nodes[name] for name in ("path", "prediction", "sampler")}}


def scheduler_facts(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """What the manifest of a student says of diffusers; nothing of other exports."""
    if locate(nodes["sampler"]["_target_"]) is not Student:
        return {}
    found = scheduler_of(nodes)
    told = (
        {"scheduler": found.name, "set_timesteps": dict(found.given)} if found.name else {"scheduler": None}
    )
    return {"diffusers": told | ({"why": found.why} if found.why else {})}
