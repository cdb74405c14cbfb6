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

# seconds from the start of the first process to that of the last; on a busy machine or a slow shared disk it takes
# minutes until torch is imported
PATIENCE = 600.0
SAID_AFTER = 30.0  # seconds after which the waiting is told
LOST = (  # how gloo, NCCL and a store say that the other end is gone
    "connection reset by peer",
    "connection closed by peer",
    "broken pipe",
    "remote process exiting",
    "connection was likely closed",
)
_OPEN: list[Any] = []  # the store that all have met at; Lightning joins the first process at the same port


def meet(patience: float = PATIENCE) -> None:
    """Returns once all processes of the launcher, or of Lightning, are there. A signal ends the waiting.

    Raises:
        ValueError: some are not there in time, or the first one cannot listen.
    """
    if (world := launched() or begun_by_lightning()) > 1 and not _OPEN:
        meet_at(*_address(), world, ranks()[0], patience)


def meet_at(host: str, port: int, world: int, rank: int, patience: float = PATIENCE) -> None:
    """Returns once all `world` processes are there, of which this is number `rank` and number 0 listens at the port.

    Those that have met before look whether number 0 is still there: to join one that is gone, torch tries for hours.

    Raises:
        ValueError: some are not there in time, or no more, or the first one cannot listen.
    """
    if _OPEN:
        if _missing(_OPEN[0], [rank]):
            raise ValueError(_ended(rank))
        return
    start = time.monotonic()
    said, end = start + SAID_AFTER, start + patience
    everybody, store = list(range(world)), None
    while (now := time.monotonic()) < end:
        if now > said:
            most = f"{patience / 60:.0f} minutes at most"
            print(f"process {rank} of {world} waits until all have started, {most} ...", flush=True)
            said = end
        store = store or _store(host, port, world, rank)
        if store is not None and _arrived(store, rank):
            if not _missing(store, everybody):
                _OPEN.append(store)
                return
        else:
            store = None
        time.sleep(0.2)
    missing = [] if store is None else [number for number in everybody if _missing(store, [number])]
    raise ValueError(
        f"{world} processes should have been started, and after {patience:.0f} s process {rank} has not heard "
        f"of number {', '.join(map(str, missing or [0]))} at {host}:{port}: start all by torchrun or srun, or "
        "set trainer.devices and trainer.num_nodes to what there is"
    )


def lost(error: BaseException) -> str | None:
    """What to tell a user where another process of the run is gone; None if the error is of another kind."""
    if not isinstance(error, RuntimeError) or not any(words in str(error).lower() for words in LOST):
        return None
    from torch.distributed import is_initialized

    return _ended(ranks()[0]) if _OPEN or is_initialized() else None


def _ended(rank: int) -> str:
    return (
        f"another process of this run has ended, so number {rank} ends too: what it said stands above, or the "
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


def _arrived(store: Any, rank: int) -> bool:
    """Tells the others that this process is there; False if the first one, which listens, has ended."""
    from torch.distributed import DistError

    try:
        store.set(_key(rank), "here")
    except DistError:
        return False
    return True


def _missing(store: Any, numbers: list[int]) -> bool:
    """Whether not all of these processes have arrived, or the first one has ended."""
    from torch.distributed import DistError

    try:
        return not store.check([_key(number) for number in numbers])
    except DistError:
        return True


def _key(rank: int) -> str:
    return f"t2ilab/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"
