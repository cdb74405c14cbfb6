"""The optimizers of conf/optimizer: groups, rates, and a state that goes on bit for bit."""

import copy
import math
import sys

import pytest
import torch
import yaml
from torch import nn

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.optim.groups import decay_groups, rate, set_rates

CHOICES = ["adamw", "adafactor", "prodigy", "schedule_free", "muon"]


def factory(choice, **changes):
    node = yaml.safe_load((composition.conf_folder() / "optimizer" / f"{choice}.yaml").read_text())
    return build(node | changes)


class Network(nn.Module):
    """Parts of every kind that decay is or is not for."""

    def __init__(self):
        super().__init__()
        self.time_embedding = nn.Linear(3, 4)
        self.modulation = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(4)
        self.layer = nn.Linear(4, 4)
        self.conv = nn.Conv2d(2, 2, 3)
        self.scale = nn.Parameter(torch.ones(()))


def set_gradients(network, step):
    generator = torch.Generator().manual_seed(step)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def train(network, optimizer, first, last):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 3))
    for step in range(first, last):
        set_gradients(network, step)
        optimizer.step()
        schedule.step()
    return schedule


def test_weights_of_layers_decay_and_vectors_and_named_layers_do_not():
    network = Network()
    decaying, spared = decay_groups(network.named_parameters(), 0.1, ["embed", "modulation"])
    names = {id(p): name for name, p in network.named_parameters()}
    assert [names[id(p)] for p in decaying["params"]] == ["layer.weight", "conv.weight"]
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(spared["params"]) == len(names)
    (whole,) = decay_groups(network.named_parameters(), 0.0, ["embed"])
    assert len(whole["params"]) == len(names)
    assert len(decay_groups([("norm", network.norm.weight)], 0.1, [])) == 1


@pytest.mark.parametrize("choice", ["adamw", "muon", "adafactor", "prodigy", "schedule_free"])
def test_decay_shrinks_what_decays_and_nothing_else(choice):
    """Two networks, one step on the same gradients, decay as the only difference."""
    before = Network()
    for p in before.parameters():
        p.data.fill_(1.0)
    moved = []
    for weight_decay in (0.0, 0.5):
        network = copy.deepcopy(before)
        options = {"weight_decay": weight_decay} | ({"d0": 0.1} if choice == "prodigy" else {"lr": 0.1})
        set_gradients(network, 0)
        factory(choice, **options)(network.named_parameters()).step()
        moved.append(network)
    for name, p in moved[0].named_parameters():
        shrunk = p - moved[1].get_parameter(name)
        if name in ("layer.weight", "conv.weight"):
            assert torch.allclose(shrunk, torch.full_like(p, shrunk.flatten()[0].item()), atol=1e-5)
            assert shrunk.min() > 1e-3, name
        else:
            assert torch.equal(shrunk, torch.zeros_like(p)), name


def test_adamw_moves_as_the_plain_one_of_torch():
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    train(ours, factory("adamw", lr=0.01, weight_decay=0.0)(ours.named_parameters()), 0, 4)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    train(theirs, plain, 0, 4)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_first_step_of_adafactor_is_that_of_the_paper():
    """Constant gradients: the update is their sign, scaled by lr and the size of the weights."""
    p = nn.Parameter(torch.full((3, 4), 2.0))
    p.grad = torch.full((3, 4), -5.0)
    factory("adafactor", lr=0.01)([("p", p)]).step()
    torch.testing.assert_close(p.data, torch.full((3, 4), 2.0 + 0.01 * 2.0))


def test_prodigy_finds_a_rate_of_the_right_size_whatever_its_first_guess():
    """|x - 3| from 0: the distance is 3, and d approaches it from below."""
    for guess in (1e-6, 1e-3):
        p = nn.Parameter(torch.zeros(1))
        optimizer = factory("prodigy", weight_decay=0.0, d0=guess)([("p", p)])
        rates = []
        for _ in range(200):
            p.grad = (p - 3.0).detach().sign()
            optimizer.step()
            rates.append(rate(optimizer.param_groups[0]))
        assert rates == sorted(rates)
        assert 0.3 < rates[-1] < 3.0
        assert abs(p.item() - 3.0) < 0.5


def test_the_schedule_multiplies_the_rate_that_prodigy_found():
    p = nn.Parameter(torch.ones(2))
    optimizer = factory("prodigy", d0=0.5)([("p", p)])
    optimizer.param_groups[0]["lr"] *= 0.25
    assert rate(optimizer.param_groups[0]) == 0.125
    adamw = factory("adafactor", threshold=2.0)([("p", p)])
    assert rate(adamw.param_groups[0]) == 0.05  # its d is something else


@pytest.mark.parametrize("choice", CHOICES)
def test_a_saved_state_goes_on_bit_for_bit(choice, tmp_path):
    """As a checkpoint keeps it: through a file, read without pickled code."""
    whole, resumed = Network(), Network()
    for p in whole.parameters():
        p.data.copy_(torch.randn(p.shape))
    resumed.load_state_dict(whole.state_dict())
    make = factory(choice)
    optimizer = make(whole.named_parameters())
    train(whole, optimizer, 0, 7)
    first = make(resumed.named_parameters())
    schedule = train(resumed, first, 0, 4)
    torch.save([resumed.state_dict(), first.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    weights, state, rates = torch.load(tmp_path / "state.pt", weights_only=True)
    again = Network()
    again.load_state_dict(weights)
    second = make(again.named_parameters())
    later = torch.optim.lr_scheduler.LambdaLR(second, lambda step: min(1.0, (step + 1) / 3))
    second.load_state_dict(state)
    later.load_state_dict(rates)
    for step in range(4, 7):
        set_gradients(again, step)
        second.step()
        later.step()
    for name, p in whole.named_parameters():
        assert torch.equal(p, again.get_parameter(name)), name
    assert rate(optimizer.param_groups[0]) == rate(second.param_groups[0])


@pytest.mark.parametrize(
    ("choice", "package"), [("prodigy", "prodigyopt"), ("schedule_free", "schedulefree")]
)
def test_a_missing_package_is_named_with_the_way_to_get_it(choice, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=rf"optimizer={choice} needs .*{package}: pip install 't2ilab\[optim\]'"
    ):
        factory(choice)([("p", nn.Parameter(torch.zeros(2)))])


def test_no_optimizer_prints(capsys):
    for choice in CHOICES:
        factory(choice, weight_decay=0.1)([("p", nn.Parameter(torch.zeros(2, 2)))])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("choice", "change", "message"),
    [
        ("adamw", {"lr": -0.1}, "optimizer.lr"),
        ("adamw", {"lr": math.nan}, "optimizer.lr"),
        ("adamw", {"betas": [0.9, 1.0]}, "optimizer.betas"),
        ("adamw", {"weight_decay": -0.1}, "optimizer.weight_decay"),
        ("adafactor", {"beta2_decay": 0.5}, "optimizer.beta2_decay"),
        ("adafactor", {"threshold": 0.5}, "optimizer.threshold"),
        ("prodigy", {"d0": 0.0}, "optimizer.d0"),
        ("prodigy", {"d_coef": -1.0}, "optimizer.d_coef"),
        ("schedule_free", {"betas": [0.0, 0.9]}, "optimizer.betas"),
    ],
)
def test_impossible_options_are_refused_by_name(choice, change, message):
    with pytest.raises(ValueError, match=message):
        factory(choice, **change)([("p", nn.Parameter(torch.zeros(2)))])


def test_all_that_a_resumed_muon_hands_to_fused_kernels_is_on_the_device_of_the_weights():
    """torch moves the counter of steps only for groups that say that they are fused; `meta` stands for a GPU."""
    network = Network()
    optimizer = factory("muon", lr=0.02)(network.named_parameters())
    set_gradients(network, 0)
    optimizer.step()
    there = Network().to("meta")
    resumed = factory("muon", lr=0.02)(there.named_parameters())
    resumed.load_state_dict(optimizer.state_dict())
    devices = {(key, value.device.type) for state in resumed.state.values() for key, value in state.items()}
    assert devices == {(key, "meta") for key in ("step", "exp_avg", "exp_avg_sq", "momentum")}


def test_rates_of_their_own_are_groups_of_their_own():
    first, second, third = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    optimizer = torch.optim.AdamW(
        [{"params": [first, second], "lr": 0.1, "weight_decay": 0.5}, {"params": [third]}]
    )
    set_rates(optimizer, [([second, third], 0.01)])
    assert [(group["params"], group["lr"]) for group in optimizer.param_groups] == [
        ([first], 0.1),
        ([second], 0.01),
        ([third], 0.01),
    ]
    assert optimizer.param_groups[1]["weight_decay"] == 0.5


def test_an_optimizer_that_finds_its_rate_takes_no_second_one():
    prodigyopt = pytest.importorskip("prodigyopt")
    first, second = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    with pytest.raises(ValueError, match="Prodigy finds one rate"):
        set_rates(prodigyopt.Prodigy([first, second], lr=1.0), [([second], 0.01)])
