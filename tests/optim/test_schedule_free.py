"""Schedule-free: the model is the mean of the steps, and nothing but the model is evaluated and exported."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from t2ilab.averages.ema import EMA
from t2ilab.export.denoiser import RAW, load
from t2ilab.export.reader import WEIGHTS
from t2ilab.optim.schedule_free import models, schedule_free
from tests.runs import run_here
from tests.tiny import workplace

OPTIONS = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "no_decay": [], "r": 0.0}
TARGET = torch.tensor([3.0, -1.0], dtype=torch.float64)


def quadratic(steps, rates=None, **options):
    """Minimises |p - target|^2 / 2; returns the parameter, the optimizer and every z."""
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    made = schedule_free([("p", p)], lr=0.05, **OPTIONS | {"weight_lr_power": 2.0} | options)
    points = []
    for step in range(steps):
        made.param_groups[0]["lr"] = rates[step] if rates else 0.05
        p.grad = (p - TARGET).detach()
        made.step()
        points.append(made.state[p]["z"].clone())
    return p, made, torch.stack(points)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_model_is_the_mean_of_all_steps(steps):
    p, optimizer, points = quadratic(steps)
    torch.testing.assert_close(models([optimizer])[id(p)], points.mean(0))
    torch.testing.assert_close(p.data, 0.1 * points[-1] + 0.9 * points.mean(0))  # gradients are taken here
    if steps > 1:
        assert (models([optimizer])[id(p)] - p.data).abs().max() > 1e-3


def test_during_a_warm_up_the_steps_weigh_as_the_squares_of_their_rates():
    rates = [0.01, 0.02, 0.03, 0.04, 0.04]
    p, optimizer, points = quadratic(5, rates)
    share = torch.tensor(rates, dtype=torch.float64) ** 2
    expected = (share[:, None] * points).sum(0) / share.sum()
    torch.testing.assert_close(models([optimizer])[id(p)], expected)


def test_the_model_is_what_the_package_puts_in_place_for_evaluation_and_it_descends():
    p, optimizer, _ = quadratic(400)
    found = models([optimizer])[id(p)]
    assert (found - TARGET).norm() < 0.1 * TARGET.norm()
    before = p.detach().clone()
    assert torch.equal(models([optimizer])[id(p)], found) and torch.equal(p, before)  # asking changes nothing
    optimizer.eval()
    torch.testing.assert_close(p.data, found)
    assert models([optimizer]) == {}  # now the parameter itself is the model


def test_sgd_of_the_same_package_is_read_too():
    import schedulefree

    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = schedulefree.SGDScheduleFree([p], lr=0.1, momentum=0.8)
    optimizer.train()
    points = []
    for _ in range(6):
        p.grad = (p - TARGET).detach()
        optimizer.step()
        points.append(optimizer.state[p]["z"].clone())
    torch.testing.assert_close(models([optimizer])[id(p)], torch.stack(points).mean(0))


def test_other_optimizers_and_parameters_without_gradient_have_no_model_of_their_own():
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = schedule_free([("p", p), ("q", q)], lr=0.1, weight_lr_power=2.0, **OPTIONS)
    assert models([optimizer]) == {}  # before the first step
    optimizer.step()
    assert set(models([optimizer])) == {id(p)}
    adamw = torch.optim.AdamW([p])
    adamw.step()
    assert models([adamw]) == {}


def test_the_average_follows_the_model_and_not_the_weights_of_the_network():
    network = nn.Linear(2, 1, bias=False).double()
    optimizer = schedule_free(network.named_parameters(), lr=0.05, weight_lr_power=2.0, **OPTIONS)
    none, half, points = EMA(decay=0.0, warmup=1.0), EMA(decay=0.5, warmup=1.0), []
    for _ in range(5):
        network.weight.grad = (network.weight - TARGET).detach()
        optimizer.step()
        for ema in (none, half):
            ema.follow(network, models([optimizer]))
        points.append(models([optimizer])[id(network.weight)].float())
    assert torch.equal(none.shadow["weight"], points[-1])
    shares = torch.tensor([1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]).view(-1, 1, 1)
    torch.testing.assert_close(half.shadow["weight"], (shares * torch.stack(points)).sum(0))
    own = copy.deepcopy(network.weight.data)
    with none.applied(network):
        assert torch.equal(network.weight.float(), points[-1]) and not torch.equal(network.weight, own)
    assert torch.equal(network.weight, own)


def test_what_a_run_draws_measures_and_exports_is_the_model(monkeypatch):
    """The weights that previews and evaluation see, and those of the export, solve eq. (1) for x."""
    from t2ilab.pipeline import TextToImage

    seen, draw = [], TextToImage.trajectory

    def noting(self, *args, **kwargs):
        seen.append(next(self.denoiser.backbone.parameters()).detach().clone())
        return draw(self, *args, **kwargs)

    monkeypatch.setattr(TextToImage, "trajectory", noting)
    folder = workplace() / "schedule_free"
    run_here(folder, "optimizer=schedule_free", "schedule=constant", "ema=none", "optimizer.lr=0.05")
    last = torch.load(folder / "checkpoints/step_00000004.ckpt", weights_only=True)
    (state,) = last["optimizer_states"]
    assert all(group["train_mode"] for group in state["param_groups"])
    averaged, raw = (load_file(folder / "export" / name) for name in (WEIGHTS, RAW))
    names = [name for name, _ in load(folder).denoiser.backbone.named_parameters()]
    assert len(names) == len(state["state"])
    for number, name in enumerate(names):
        y, z = last["state_dict"][f"student.backbone.{name}"], state["state"][number]["z"]
        assert torch.equal(raw[name], y)
        assert torch.equal(averaged[name], y.lerp(z, 1 - 1 / 0.9)), name
    assert any(not torch.equal(averaged[name], raw[name]) for name in names)
    assert all(torch.equal(weight, averaged[names[0]]) for weight in seen[-3:])
    assert not torch.equal(seen[0], averaged[names[0]])  # the preview before the first step
