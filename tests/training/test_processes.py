"""What several processes of a run hold, and what becomes of them if one fails."""

import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from t2ilab.runs.machine import TrainerOptions
from t2ilab.training.processes import strategy_of

TWO = TrainerOptions(max_steps=1, devices=2, accelerator="cpu")


@pytest.fixture
def alone():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_several_processes_hold_every_gradient_once():
    """Those that a parameter has are the ones that are sent, also after an optimizer has dropped them."""
    strategy = strategy_of(TWO)
    strategy.parallel_devices = [torch.device("cpu")]
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    shared = strategy._setup_model(network)
    for _ in range(3):
        network.zero_grad(set_to_none=True)
        shared(torch.ones(1, 4)).sum().backward()
        assert len({p.grad.untyped_storage().data_ptr() for p in network.parameters()}) == 1
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        assert float(nn.utils.get_total_norm(p.grad for p in network.parameters())) == pytest.approx(0.1)


def test_a_process_that_fails_ends_those_that_it_has_started():
    strategy = strategy_of(TWO)
    child = subprocess.Popen(["sleep", "60"])
    strategy._launcher = SimpleNamespace(procs=[child])
    strategy.on_exception(OSError("no space left on device"))
    assert child.wait(20) == -signal.SIGKILL
    assert strategy.launcher.procs == [], "Lightning's observer has nobody to find dead"
