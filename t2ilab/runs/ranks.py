"""Which process of a run this is, before Lightning knows: by what torchrun, srun and Lightning itself leave behind.

started by                sets
torchrun                  RANK, LOCAL_RANK, WORLD_SIZE, GROUP_RANK
srun                      SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS, SLURM_STEP_ID (a batch script: all but the last)
Lightning                 LOCAL_RANK, NODE_RANK in all but the first process
"""

from __future__ import annotations

import os

STEP = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS")  # what srun alone sets
# Names of SLURM jobs whose processes the user starts by hand, as Lightning has it.
INTERACTIVE = ("bash", "interactive")


def ranks() -> tuple[int, int]:
    """The number of this process in the run and on its machine; (0, 0) if nobody has said."""
    if "RANK" in os.environ:
        return _number("RANK"), _number("LOCAL_RANK")
    if "LOCAL_RANK" in os.environ:  # no number in the run: what counts is whether it is the first
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


def begun_by_lightning() -> int:
    """How many processes the run has, in one that Lightning has started for it; 0 in all others."""
    return _number("WORLD_SIZE") if "RANK" not in os.environ and _number("LOCAL_RANK") > 0 else 0


def check_launched(world: int, num_nodes: int = 1) -> None:
    """Refuses a launcher that has started another number of processes than the options ask for, or none at all.

    Raises:
        ValueError: naming the options.
    """
    found, reserved = launched(), _reserved_without_srun()
    asked = f"trainer.devices x trainer.num_nodes asks for {world}"
    if reserved > 1 and world > 1:
        raise ValueError(
            f"SLURM reserved {reserved} tasks, one process was started, without srun, and {asked}: write srun in "
            "front of the command in the batch script"
        )
    if reserved > 1:
        print(
            f"note: SLURM reserved {reserved} tasks; this command was started once, without srun, and runs alone"
        )
    if found == 0 and num_nodes > 1 and "NODE_RANK" not in os.environ:
        raise ValueError(
            f"trainer.num_nodes={num_nodes}, and nothing started processes on other machines: start the command by "
            "torchrun or srun on all of them"
        )
    if found > 1 and found != world:
        raise ValueError(
            f"{found} processes were started, and {asked}: set them to "
            "the processes of a machine and the number of machines"
        )


def _by_srun() -> bool:
    """A batch script without srun has a SLURM_PROCID as well, 0, and belongs to no step."""
    if "SLURM_PROCID" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return False
    return _number("SLURM_PROCID") > 0 or any(name in os.environ for name in STEP)


def _reserved_without_srun() -> int:
    """Tasks that a batch script reserved and nobody started; 0 outside of such a script."""
    alone = "SLURM_PROCID" in os.environ and not _by_srun() and "RANK" not in os.environ
    interactive = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
    return _number("SLURM_NTASKS") if alone and not interactive and "LOCAL_RANK" not in os.environ else 0


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)
