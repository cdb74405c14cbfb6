"""The processes of a run find each other before they read anything, or it is said who is missing.

Later waits are long, since the others stand still while the first process measures, and since encoders and data of
any size are read; this one is short.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from t2ilab.runs.ranks import begun_by_lightning, launched, ranks

PATIENCE = 120.0  # seconds from the start of the first process to that of the last
LOST = (  # how gloo and NCCL say that the other end is gone
    "connection reset by peer",
    "connection closed by peer",
    "broken pipe",
    "remote process exiting",
)
_OPEN: list[Any] = []  # what the first process listens with; Lightning joins it at the same port


def meet(patience: float = PATIENCE) -> None:
    """Returns once all processes of the launcher, or of Lightning, are there. A signal ends the waiting.

    Raises:
        ValueError: some are not there in time, or the first one cannot listen.
    """
    if (world := launched() or begun_by_lightning()) > 1 and not _OPEN:
        meet_at(*_address(), world, ranks()[0], patience)


def meet_at(host: str, port: int, world: int, rank: int, patience: float = PATIENCE) -> None:
    """Returns once all `world` processes are there, of which this is number `rank` and number 0 listens at the port.

    Raises:
        ValueError: some are not there in time, or the first one cannot listen.
    """
    if _OPEN:
        return
    end = time.monotonic() + patience
    store = None
    while time.monotonic() < end:
        store = store or _store(host, port, world, rank)
        if store is not None:
            store.set(_key(rank), "here")
            if store.check([_key(number) for number in range(world)]):
                _OPEN.append(store)
                return
        time.sleep(0.2)
    missing = [str(number) for number in range(world) if store is None or not store.check([_key(number)])]
    raise ValueError(
        f"{world} processes should have been started, and after {patience:.0f} s process {rank} has not heard "
        f"of number {', '.join(missing if store else ['0'])} at {host}:{port}: start all by torchrun or srun, or "
        "set trainer.devices and trainer.num_nodes to what there is"
    )


def lost(error: BaseException) -> str | None:
    """What to tell a user where another process of the run is gone; None if the error is of another kind."""
    if not isinstance(error, RuntimeError) or not any(words in str(error).lower() for words in LOST):
        return None
    from torch.distributed import is_initialized

    if not is_initialized():
        return None
    return (
        f"another process of this run has ended, so number {ranks()[0]} ends too: what it said stands above, or the "
        "system has stopped it; give the same command again to go on from the last checkpoint"
    )


def _address() -> tuple[str, int]:
    if "RANK" in os.environ or begun_by_lightning():
        return os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", "29500"))
    from lightning.fabric.plugins.environments import SLURMEnvironment

    try:
        slurm = SLURMEnvironment()
    except RuntimeError as error:
        raise ValueError(f"trainer.devices: {error}") from error
    return slurm.main_address, slurm.main_port


def _store(host: str, port: int, world: int, rank: int) -> Any:
    """A store of all processes, or None if the first one does not listen yet."""
    from torch.distributed import DistError, TCPStore

    listens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    seconds = timedelta(seconds=5)
    try:
        return TCPStore(
            host, port, world, listens, timeout=seconds, wait_for_workers=False, multi_tenant=True
        )
    except DistError as error:
        if listens:
            raise ValueError(f"MASTER_PORT={port}: cannot listen at {host}: {error}") from error
        return None


def _key(rank: int) -> str:
    return f"t2ilab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"
