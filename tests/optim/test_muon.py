import copy

import pytest
import torch
from torch import nn

from t2ilab.optim import muon
from t2ilab.optim.muon import MuonAdamW, orthogonalised

OPTIONS = {
    "lr": 0.02,
    "momentum": 0.9,
    "exclude": ["embed"],
    "adamw_lr": 3e-3,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "no_decay": [],
}


class Network(nn.Module):
    """Equal, tall and wide matrices, a convolution, an excluded embedding, biases and a scale."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.tall, self.wide = nn.Linear(16, 48), nn.Linear(48, 16)
        self.conv = nn.Conv2d(4, 8, 3)
        self.scale = nn.Parameter(torch.ones(()))


def gradients(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def train(network, optimizers, steps=5, first=0):
    for step in range(first, first + steps):
        gradients(network, step)
        for optimizer in optimizers:
            optimizer.step()


def matrix_names(network):
    return [name for name, p in network.named_parameters() if p.ndim >= 2 and "embed" not in name]


def test_singular_values_come_near_one_and_singular_vectors_stay():
    matrix = torch.randn(3, 24, 40)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonalised(matrix)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.6 and values.max() < 1.3
    alignment = (update * (u @ v)).sum((1, 2)) / update.norm(dim=(1, 2)) / (u @ v).norm(dim=(1, 2))
    assert alignment.min() > 0.97
    assert torch.equal(orthogonalised(-matrix), -update)


def test_matrices_move_as_under_torch_muon_and_the_rest_as_under_adamw(monkeypatch):
    monkeypatch.setattr(muon, "has_bf16", lambda device_type: True)  # torch's always works in bf16
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    chosen = matrix_names(theirs)
    matrices = [p for name, p in theirs.named_parameters() if name in chosen and p.ndim == 2]
    rest = [p for name, p in theirs.named_parameters() if name not in chosen]
    reference = torch.optim.Muon(matrices, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    groups = [
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.1},
    ]
    adamw = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    before = copy.deepcopy(ours)
    train(ours, [MuonAdamW(ours.named_parameters(), **OPTIONS)])
    train(theirs, [reference, adamw])
    for name, p in ours.named_parameters():
        start, other = before.get_parameter(name), theirs.get_parameter(name)
        if name in chosen and p.ndim == 2:
            assert (p - other).norm() < 2e-3 * (other - start).norm(), (
                name
            )  # the layout decides roundings to bf16
        elif name not in chosen:
            assert torch.allclose(p, other, rtol=1e-6, atol=1e-7), name
        assert not torch.equal(p, start), name


def test_a_convolution_moves_as_the_matrix_of_its_kernels():
    conv = nn.Conv2d(4, 8, 3)
    matrix = nn.Linear(36, 8)
    matrix.weight.data.copy_(conv.weight.detach().flatten(1))
    for network in (conv, matrix):
        optimizer = MuonAdamW(network.named_parameters(), **OPTIONS)
        for seed in range(3):
            for p, grad in zip(network.parameters(), _conv_gradients(seed), strict=True):
                p.grad = grad.reshape(p.shape)
            optimizer.step()
    assert torch.equal(conv.weight.flatten(1), matrix.weight)


def _conv_gradients(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 36, generator=generator), torch.randn(8, generator=generator)


def test_equal_shapes_in_one_batch_move_as_one_by_one():
    together = Network()
    alone = copy.deepcopy(together)
    train(together, [MuonAdamW(together.named_parameters(), **OPTIONS)])
    train(alone, [MuonAdamW([pair], **OPTIONS) for pair in alone.named_parameters()])
    for name, p in together.named_parameters():
        assert torch.allclose(p, alone.get_parameter(name), rtol=0, atol=1e-4), name


def test_a_step_goes_downhill_by_the_learning_rate_and_more_for_tall_matrices():
    for rows, columns, factor in ((16, 16, 1.0), (64, 16, 2.0), (16, 64, 1.0)):
        p = nn.Parameter(torch.zeros(rows, columns))
        p.grad = torch.randn(rows, columns)
        MuonAdamW([("p", p)], **OPTIONS).step()
        assert (p * p.grad).sum() < 0
        assert torch.linalg.svdvals(p).median().item() == pytest.approx(0.02 * factor, rel=0.3)


def test_a_saved_state_goes_on_bit_for_bit():
    whole, resumed = Network(), Network()
    resumed.load_state_dict(whole.state_dict())
    first = MuonAdamW(whole.named_parameters(), **OPTIONS)
    train(whole, [first], steps=3)
    train(resumed, [MuonAdamW(resumed.named_parameters(), **OPTIONS)], steps=3)
    second = MuonAdamW(resumed.named_parameters(), **OPTIONS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(whole, [first], steps=3, first=3)
    train(resumed, [second], steps=3, first=3)
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name)), name


def test_parameters_without_a_gradient_stay_and_the_closure_is_called_with_gradients():
    network = Network()
    optimizer = MuonAdamW(network.named_parameters(), **OPTIONS)
    before = copy.deepcopy(network.state_dict())

    def closure():
        loss = network.first.weight.square().sum() + network.scale**2
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) > 0
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"first.weight", "scale"}


def test_a_network_of_one_kind_of_parameters_is_served():
    for name in ("bias", "weight"):
        layer = nn.Linear(4, 4)
        gradients(layer, 0)
        optimizer = MuonAdamW([(name, layer.get_parameter(name))], **OPTIONS)
        assert len(optimizer.param_groups) == 1
        optimizer.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -0.1}, "optimizer.lr"),
        ({"adamw_lr": -1.0}, "adamw_lr"),
        ({"momentum": 1.0}, "optimizer.momentum"),
    ],
)
def test_impossible_options_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW(Network().named_parameters(), **OPTIONS | change)
