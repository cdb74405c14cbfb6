"""How adapters of the kinds of LoRA begin, and what of them learns first."""

import pytest
import torch
from torch import nn

from t2ilab.models.adapters import LoRA
from t2ilab.models.injection import inject, merge

WIDE, HIGH = 400, 300


def adapted(rank=8, alpha=24.0, **more):
    """A linear layer with an adapter, its weight before, and the adapter's A and B."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(WIDE, HIGH))
    weight = network[0].weight.detach().clone()
    options = {"init": "gaussian", "rslora": False, "dora": False, "targets": ["0"]}
    inject(network, LoRA(**options | {"rank": rank, "alpha": alpha} | more))
    return network, weight, network[0].lora_A["default"].weight, network[0].lora_B["default"].weight


@pytest.mark.parametrize(("init", "std"), [("gaussian", 1 / 8), ("kaiming", (1 / (3 * WIDE)) ** 0.5)])
def test_a_begins_random_with_its_std_and_b_as_zero(init, std):
    _, _, a, b = adapted(init=init)
    assert float(a.std()) == pytest.approx(std, rel=0.05) and not b.any()


def test_the_first_step_moves_b_and_leaves_a():
    """dL/dA = s B^T g x^T is 0 where B is."""
    network, _, a, b = adapted()
    network(torch.randn(4, WIDE)).square().sum().backward()
    assert not a.grad.any() and b.grad.abs().min() > 0


def test_pissa_takes_the_largest_singular_directions_out_of_the_weights():
    network, weight, a, b = adapted(init="pissa")
    rest = network[0].base_layer.weight
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(3 * b @ a)[:8], values[:8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(rest)[: HIGH - 8], values[8:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rest + 3 * b @ a, weight, rtol=1e-5, atol=1e-6)


def test_dora_trains_the_norm_of_every_row_beside_and_keeps_it_whatever_b_says():
    network, weight, a, b = adapted(dora=True)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == 8 * (WIDE + HIGH) + HIGH
    nn.init.normal_(b)
    moved = weight + 3 * (b @ a).detach()
    expected = weight.norm(dim=1, keepdim=True) * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(merge(network)[0].weight, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_full_rank_can_be_any_change():
    network, weight, a, b = adapted(rank=HIGH, alpha=HIGH)
    change = torch.randn(HIGH, WIDE)
    a.data, b.data = change, torch.eye(HIGH)
    torch.testing.assert_close(merge(network)[0].weight, weight + change)
