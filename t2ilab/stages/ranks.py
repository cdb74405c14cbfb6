"""Which process of a run this is, before Lightning knows: by what torchrun, srun and Lightning itself leave behind.

started by                sets
torchrun                  RANK, LOCAL_RANK, WORLD_SIZE, GROUP_RANK
srun                      SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS
Lightning                 LOCAL_RANK, NODE_RANK in all but the first process
"""

from __future__ import annotations

import os

INTERACTIVE = (
    "bash",
    "interactive",
)  # names of SLURM jobs whose processes the user starts by hand, as Lightning has it


def ranks() -> tuple[int, int]:
    """The number of this process in the run and on its machine; (0, 0) if nobody has said."""
    if "RANK" in os.environ:
        return _number("RANK"), _number("LOCAL_RANK")
    if (
        "LOCAL_RANK" in os.environ
    ):  # of one machine's processes only the first is told apart here, by its node
        local, node = _number("LOCAL_RANK"), _number("NODE_RANK")
        return (local if node == 0 else max(1, local), local)
    if _by_srun():
        return _number("SLURM_PROCID"), _number("SLURM_LOCALID")
    return 0, 0


def is_first_process() -> bool:
    """True in the process that writes files: rank 0, before and after the ranks are known."""
    return ranks()[0] == 0


def launched() -> int:
    """How many processes torchrun or srun has started for this run; 0 if the run starts its own."""
    if "RANK" in os.environ:
        return _number("WORLD_SIZE")
    return _number("SLURM_NTASKS") if _by_srun() and "LOCAL_RANK" not in os.environ else 0


def check_launched(world: int) -> None:
    """Refuses a launcher that has started another number of processes than the options ask for.

    Raises:
        ValueError: naming the options.
    """
    found = launched()
    if found > 1 and found != world:
        raise ValueError(
            f"{found} processes were started, and trainer.devices x trainer.num_nodes asks for {world}: set them to "
            "the processes of a machine and the number of machines"
        )


def _by_srun() -> bool:
    return "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)
