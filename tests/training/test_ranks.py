"""Who is first, by what torchrun, srun and Lightning leave in the environment."""

import os
import signal
import socket
import threading
import time

import pytest
import torch

from t2ilab import cli
from t2ilab.runs import meeting, ranks
from t2ilab.runs.machine import TrainerOptions, check_devices, device_of
from t2ilab.signals import Stopped, handled, stop

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID")
NAMES += ("SLURM_NTASKS", "SLURM_JOB_NAME", *ranks.STEP)
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
    "srun, first": (
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"},
        (0, 0),
        8,
    ),
    "a batch script without srun": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 0), 0),
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


def test_more_processes_than_devices_are_refused_before_anything_is_read(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        check_devices(TrainerOptions(max_steps=1, devices=2, accelerator="cpu"))
        assert capsys.readouterr().out == ""
        check_devices(TrainerOptions(max_steps=1, devices=2))
        assert "no GPU can be seen here, so the 2 processes" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_devices(TrainerOptions(max_steps=1, devices=4))
    check_devices(TrainerOptions(max_steps=1, devices=8, accelerator="cpu"))
    with pytest.raises(ValueError, match=r"trainer\.devices=8, and 4 can be seen"):
        check_devices(TrainerOptions(max_steps=1, devices=8))


def test_a_launcher_that_started_another_number_of_processes_is_refused(launcher):
    _, started = launcher
    ranks.check_launched(started or 4)
    if started:
        with pytest.raises(ValueError, match=f"{started} processes were started.*asks for 3"):
            ranks.check_launched(3)


def test_processes_from_outside_need_a_folder_that_all_agree_on(launcher):
    _, started = launcher
    cli.check_one_folder(["seed=1", "run_dir=here"])
    cli.check_one_folder(["seed=1"], sweep=True)  # a launcher such as submitit has told them one
    if started:
        with pytest.raises(ValueError, match=r"give run_dir=DIR"):
            cli.check_one_folder(["seed=1"])
    else:
        cli.check_one_folder(["seed=1"])


@pytest.fixture
def batch_script(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train.sh"}.items():
        monkeypatch.setenv(name, value)


def test_a_batch_script_that_forgot_srun_is_told_so_at_once(batch_script, capsys):
    with pytest.raises(ValueError, match="SLURM reserved 4 tasks, one process was started, without srun"):
        ranks.check_launched(4)
    ranks.check_launched(1)
    assert "reserved 4 tasks; this command was started once" in capsys.readouterr().out


def test_other_machines_need_a_launcher(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=2.*torchrun or srun"):
        ranks.check_launched(2, 2)


@pytest.fixture
def port(monkeypatch):
    """One where nobody listens, for processes that have not met."""
    monkeypatch.setattr(meeting, "_OPEN", [])
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def torchrun(monkeypatch, port):
    """The environment of one of two processes; gives a function that names it."""

    def name(rank):
        for key, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}.items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.setenv("MASTER_ADDR", "localhost")

    return name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_in_vain_says_for_whom(torchrun, rank):
    torchrun(rank)
    with pytest.raises(
        ValueError, match=f"2 processes should have been started.* number {1 - rank} at localhost"
    ):
        meeting.meet(1.0)


def test_a_process_that_waits_for_others_says_so_before_its_patience_ends(torchrun, monkeypatch, capsys):
    assert meeting.PATIENCE >= 600, "a busy machine needs minutes to import torch"
    monkeypatch.setattr(meeting, "SAID_AFTER", 0.1)
    torchrun(0)
    with pytest.raises(ValueError, match="after 1 s process 0"):
        meeting.meet(1.0)
    assert capsys.readouterr().out.count("process 0 of 2 waits until all have started") == 1


def test_a_lost_process_is_named_only_where_there_was_one(monkeypatch):
    import torch.distributed as dist

    gone = RuntimeError("gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer.")
    assert meeting.lost(gone) is None, "this run has one process"
    with monkeypatch.context() as patch:
        patch.setattr(meeting, "_OPEN", ["they have met, and wait for Lightning to join them"])
        joining = dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed.")
        assert "give the same command again" in str(meeting.lost(joining))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert "give the same command again" in str(meeting.lost(gone))
    assert meeting.lost(RuntimeError("shapes differ")) is None
    assert meeting.lost(ValueError("broken pipe")) is None


def meets_in_a_child(then=lambda: None):
    """The process that comes to `meeting.meet` in this environment, and then does something."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            meeting.meet(60.0)
            then()
            status = 0
        finally:
            os._exit(status)
    return child


def test_two_processes_meet(torchrun):
    torchrun(1)
    child = meets_in_a_child()
    torchrun(0)
    meeting.meet(60.0)
    assert os.waitpid(child, 0)[1] == 0


def end(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_process_does_not_wait_for_a_first_one_that_ended_after_they_had_met(torchrun, port):
    torchrun(0)
    first = meets_in_a_child(then=lambda: time.sleep(60))
    torchrun(1)
    meeting.meet(60.0)
    meeting.meet_at("localhost", port, 2, 1)  # as before Lightning joins them
    end(first)
    with pytest.raises(ValueError, match="another process of this run has ended, so number 1 ends too"):
        meeting.meet_at("localhost", port, 2, 1)


def test_a_first_process_that_ends_while_others_wait_is_named(torchrun, monkeypatch):
    torchrun(0)
    monkeypatch.setenv("WORLD_SIZE", "3")  # of which one never comes
    first = meets_in_a_child()
    torchrun(1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    threading.Timer(2.0, end, (first,)).start()
    with pytest.raises(ValueError, match="process 1 has not heard of number 0 at localhost"):
        meeting.meet(8.0)


def test_a_process_that_lightning_started_says_so_before_it_reads_encoders_and_data(monkeypatch, port):
    second = {
        "LOCAL_RANK": 1,
        "NODE_RANK": 0,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
    }
    with monkeypatch.context() as patch:
        for key, value in second.items():
            patch.setenv(key, str(value))
        child = meets_in_a_child()
    meeting.meet_at("localhost", port, 2, 0, 60.0)  # as the first process does when it has started the others
    assert os.waitpid(child, 0)[1] == 0


def test_a_signal_ends_the_waiting(torchrun):
    torchrun(0)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped), handled(stop):
        meeting.meet(60.0)
