"""The counting helpers on a network whose counts are known."""

import torch
from torch import nn

from t2ilab.models import count


def test_parameters_are_counted_once_whether_they_learn_or_not():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    network[1].weight.requires_grad_(False)
    network.append(network[0])
    assert count.parameters(network) == 16 + 20


def test_one_linear_layer_costs_its_weight_count_per_row():
    with torch.device("meta"):
        layer, x = nn.Linear(30, 40), torch.zeros(7, 30)
    assert count.gmac(lambda: layer(x)) == 7 * 30 * 40 / 1e9
