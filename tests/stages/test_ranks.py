"""Who is first, by what torchrun, srun and Lightning leave in the environment."""

import pytest
import torch

from t2ilab import cli
from t2ilab.stages import ranks
from t2ilab.stages.machine import TrainerOptions, device_of

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID")
NAMES += ("SLURM_NTASKS", "SLURM_JOB_NAME")
LAUNCHERS = {  # environment: rank and local rank, processes that somebody else has started
    "nobody": ({}, (0, 0), 0),
    "lightning, second": ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, (1, 1), 0),
    "lightning, second machine": ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, (1, 0), 0),
    "torchrun, second machine": (
        {"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "16"},
        (8, 0),
        16,
    ),
    "srun": ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, (5, 1), 8),
    "salloc": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}, (0, 0), 0),
    "lightning inside a job": (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "LOCAL_RANK": "1", "NODE_RANK": "0"},
        (1, 1),
        0,
    ),
}


@pytest.fixture(params=LAUNCHERS)
def launcher(request, monkeypatch):
    environment, *expected = LAUNCHERS[request.param]
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return expected


def test_the_first_process_is_found_whoever_started_it(launcher):
    (rank, local), started = launcher
    assert ranks.ranks() == (rank, local)
    assert ranks.is_first_process() == (rank == 0)
    assert ranks.launched() == started


def test_every_process_works_on_a_device_of_its_own(launcher, monkeypatch):
    (_, local), _ = launcher
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(TrainerOptions(max_steps=1)) == torch.device("cuda", local % 2)


def test_a_launcher_that_started_another_number_of_processes_is_refused(launcher):
    _, started = launcher
    ranks.check_launched(started or 4)
    if started:
        with pytest.raises(ValueError, match=f"{started} processes were started.*asks for 3"):
            ranks.check_launched(3)


def test_processes_from_outside_need_a_folder_that_all_agree_on(launcher):
    _, started = launcher
    cli.check_one_folder(["seed=1", "run_dir=here"])
    if started:
        with pytest.raises(ValueError, match=r"give run_dir=DIR"):
            cli.check_one_folder(["seed=1"])
    else:
        cli.check_one_folder(["seed=1"])
