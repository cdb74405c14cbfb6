"""The counting helpers on a network whose counts are known."""

import torch
from torch import nn

from t2ilab.models import count


def test_parameters_are_counted_once_and_by_part():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    network[1].weight.requires_grad_(False)
    network.append(network[0])
    assert count.parameters(network) == 16 + 20
    assert count.parameters(network, trainable_only=True) == 16 + 4
    assert count.by_part(nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 4)})) == {"a": 16, "b": 20}


def test_own_parameters_stand_under_an_empty_name():
    assert count.by_part(nn.Linear(3, 4)) == {"": 16}


def test_one_linear_layer_costs_its_weight_count_per_row():
    with torch.device("meta"):
        layer, x = nn.Linear(30, 40), torch.zeros(7, 30)
    assert count.gmac(lambda: layer(x)) == 7 * 30 * 40 / 1e9
