"""The recipes of published methods: what each one is, and that it trains and draws."""

import json

import pytest

from t2ilab.config.composition import checked
from tests.tiny import command

PUBLISHED = {  # path, prediction, loss, times, sampler
    "ddpm": ("Discrete", "Eps", "Diffusion", "Uniform", "DDPM"),
    "edm": ("VE", "EDM", "Diffusion", "LogNormal", "Heun"),
    "sit": ("Linear", "Velocity", "FlowMatching", "Uniform", "EulerMaruyama"),
    "sd3": ("Linear", "Velocity", "FlowMatching", "LogitNormal", "Euler"),
    "score_sde": ("VPLinear", "Eps", "ScoreMatching", "Uniform", "EulerMaruyama"),
}
SAMPLERS = {"ddpm": "ddpm", "edm": "edm", "sit": "sde", "sd3": "euler", "score_sde": "reverse_sde"}


def kind(node):
    return node["_target_"].rpartition(".")[2]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_is_the_published_method_on_the_default_model(recipe):
    config, usual = checked([f"recipe={recipe}"]), checked([])
    found = tuple(kind(config[part]) for part in ("path", "prediction", "loss", "timestep", "sampler"))
    assert found == PUBLISHED[recipe]
    same = (
        "model",
        "data",
        "autoencoder",
        "conditioner",
        "optimizer",
        "schedule",
        "ema",
        "trainer",
        "guidance",
    )
    assert all(config[part] == usual[part] for part in same), "so that runs differ in the method alone"


def test_the_numbers_of_the_recipes_are_those_of_the_papers():
    ddpm, edm, sd3 = (checked([f"recipe={name}"]) for name in ("ddpm", "edm", "sd3"))
    assert (ddpm["path"]["beta_start"], ddpm["path"]["beta_end"], ddpm["path"]["steps"]) == (1e-4, 0.02, 1000)
    assert (edm["sampler"]["grid"]["steps"], edm["sampler"]["grid"]["rho"]) == (18, 7.0)
    assert edm["timestep"]["mean"] == pytest.approx(-1.2 + 0.693, abs=1e-3), (
        "twice the std of the paper's data"
    )
    assert kind(edm["loss"]["weighting"]) == "EDM"
    times = sd3["timestep"]
    assert (times["mean"], times["std"], times["uniform_share"], times["shift"]) == (0.0, 1.0, 0.0, 1.0)
    score = checked(["recipe=score_sde"])
    assert (score["path"]["beta_min"], score["path"]["beta_max"], score["timestep"]["low"]) == (
        0.1,
        20.0,
        1e-5,
    )
    assert score["sampler"]["diffusion"] == "path"
    assert score["loss"]["likelihood"] is False, "weight sigma^2"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_trains_draws_and_measures(recipe, tmp_path):
    command(f"recipe={recipe}", "debug=tiny", f"sampler={SAMPLERS[recipe]}", run_dir=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["loss/heldout"]["value"] > 0
    assert (tmp_path / "report.html").is_file()
