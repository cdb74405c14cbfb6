import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from t2ilab.averages.ema import EMA
from t2ilab.averages.snapshots import step_of


def scalar(value):
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(value)
    return network


def follow(ema, values):
    network = scalar(0.0)
    for value in values:
        network.weight.data.fill_(value)
        ema.follow(network)
    return ema.shadow["weight"].item()


def test_average_of_a_sequence_matches_the_closed_form():
    values = [1.0, -2.0, 5.0, 3.0, 0.5]
    ema = EMA(decay=0.5, warmup=1.0)  # warmup 1: beta is `decay` from the first update on
    expected = 0.5 ** (len(values) - 1) * values[0]
    expected += sum(0.5 * 0.5 ** (len(values) - 1 - k) * values[k] for k in range(1, len(values)))
    assert follow(ema, values) == pytest.approx(expected, rel=1e-6)
    assert ema.updates == len(values)


def test_warm_up_raises_beta_from_one_tenth_to_the_decay():
    ema = EMA(decay=0.95, warmup=10.0)
    assert ema.beta(0) == 0.1
    assert ema.beta(9) == 10 / 19
    betas = [ema.beta(n) for n in range(400)]
    assert betas == sorted(betas) and betas[-1] == 0.95
    assert next(n for n, beta in enumerate(betas) if beta == 0.95) == 170  # (1 + n) / (10 + n) = 0.95


def test_warmed_up_average_weighs_each_value_by_its_beta():
    values, ema = [1.0, 2.0, 4.0, 8.0], EMA(decay=0.3, warmup=10.0)
    expected = values[0]
    for n, value in enumerate(values):
        beta = min(0.3, (1 + n) / (10 + n))
        expected = beta * expected + (1 - beta) * value
    assert follow(ema, values) == pytest.approx(expected, rel=1e-6)


class WithBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight  # shared
        self.register_buffer("passing", torch.zeros(2), persistent=False)


def test_buffers_are_copied_in_their_own_type():
    network, ema = WithBuffers(), EMA(decay=0.9)
    ema.follow(network)
    network.norm.running_mean.fill_(7.0)
    network.norm.num_batches_tracked.fill_(2**24 + 1)  # not a float32
    ema.follow(network)
    assert ema.shadow["norm.running_mean"].tolist() == [7.0] * 3
    with ema.applied(network):
        assert network.norm.num_batches_tracked.item() == 2**24 + 1
    assert "passing" not in ema.shadow


def test_shared_weights_are_averaged_under_both_names():
    network, ema = WithBuffers(), EMA(decay=0.5, warmup=1.0)
    network.first.weight.data.zero_()
    ema.follow(network)
    network.first.weight.data.fill_(1.0)
    ema.follow(network)
    with ema.applied(network):
        assert network.second.weight is network.first.weight
        assert network.first.weight.unique().item() == 0.5


def test_shadow_of_bf16_weights_is_fp32_and_keeps_what_bf16_would_lose():
    ema, network = EMA(decay=0.99, warmup=1.0), scalar(1.0).bfloat16()
    ema.follow(network)
    network.weight.data.fill_(1.125)
    for _ in range(10):
        ema.follow(network)
    assert ema.shadow["weight"].dtype == torch.float32
    assert ema.shadow["weight"].item() == pytest.approx(1 + 0.125 * (1 - 0.99**10), rel=1e-6)
    with ema.applied(network):
        assert network.weight.dtype == torch.bfloat16
        assert network.weight.item() == torch.tensor(1 + 0.125 * (1 - 0.99**10)).bfloat16().item()
    assert network.weight.item() == 1.125


def test_applied_restores_every_bit_also_after_an_exception():
    network, ema = WithBuffers(), EMA(decay=0.9)
    ema.follow(network)
    for p in network.parameters():
        p.data.add_(torch.randn(p.shape))
    ema.follow(network)
    before = copy.deepcopy(network.state_dict())
    with ema.applied(network):
        assert not torch.equal(network.first.weight, before["first.weight"])
    with pytest.raises(KeyError), ema.applied(network):
        network.first.weight.data.zero_()
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert ema.state_dict()["updates"] == 2  # and it can be saved again


def test_a_checkpoint_cannot_be_written_while_the_average_is_swapped_in():
    network, ema = scalar(1.0), EMA(decay=0.9)
    ema.follow(network)
    with ema.applied(network), pytest.raises(AssertionError, match="swapped"):
        ema.state_dict()


def test_before_the_first_update_applied_leaves_the_network_as_it_is():
    network = scalar(3.0)
    with EMA(decay=0.9).applied(network):
        assert network.weight.item() == 3.0


def test_a_saved_average_goes_on_bit_for_bit():
    values = torch.randn(6).tolist()
    whole, first, second = EMA(decay=0.9), EMA(decay=0.9), EMA(decay=0.9)
    expected = follow(whole, values)
    follow(first, values[:3])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert follow(second, values[3:]) == expected
    assert second.updates == whole.updates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, "ema.decay"),
        ({"decay": -0.1}, "ema.decay"),
        ({"decay": 0.9, "warmup": 0.5}, "ema.warmup"),
        ({"decay": 0.9, "snapshot_at": 0.0}, "ema.snapshot_at"),
        ({"decay": 0.9, "snapshot_at": 1.0}, "ema.snapshot_at"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        EMA(**options)


def trained(folder, ema, steps, total, first=0):
    """What the trainer does with an EMA: the weight is the number of the step."""
    network = scalar(float(first))
    for step in range(first + 1, steps + 1):
        network.weight.data.fill_(float(step))
        ema.follow(network)
        ema.keep(folder, step, total)
    return folder / "early.safetensors"


def test_the_early_snapshot_is_the_average_at_its_share_of_the_steps(tmp_path):
    ema = EMA(decay=0.5, warmup=1.0, snapshot_at=0.3)
    path = trained(tmp_path, ema, 10, 10)
    assert step_of(path) == 3
    assert load_file(path)["weight"].item() == (1.0 / 2 + 2.0 / 2) / 2 + 3.0 / 2
    assert ema.early(tmp_path) == path
    assert step_of(trained(tmp_path / "short", EMA(decay=0.5, snapshot_at=0.01), 3, 10)) == 1


def test_a_run_that_was_shortened_past_its_snapshot_takes_it_at_the_next_step(tmp_path):
    ema = EMA(decay=0.5, snapshot_at=0.5)
    assert not trained(tmp_path, ema, 6, 20).exists()
    assert step_of(trained(tmp_path, ema, 8, 10, first=6)) == 7


def test_without_a_share_nothing_is_kept_and_a_snapshot_that_was_deleted_is_missed(tmp_path):
    plain = EMA(decay=0.5)
    assert not trained(tmp_path, plain, 4, 4).exists() and plain.early(tmp_path) is None
    with pytest.raises(ValueError, match=r"early.safetensors of ema.snapshot_at=0.5 is gone"):
        EMA(decay=0.5, snapshot_at=0.5).early(tmp_path)
