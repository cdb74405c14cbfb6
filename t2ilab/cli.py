"""The command line: compose, check, run.

Nothing heavy is imported before a run starts, so `--help`, `--cfg job` and a misspelt option answer at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from t2ilab.composition import check, checked, conf_folder, jobs_of, register_resolvers
from t2ilab.explain import explain, key_of

USER_ERROR = 2


def job(config: DictConfig) -> float | None:
    """Checks the composed config and runs the stage; the value is what a sweep optimises."""
    plain = check(config)
    settings = HydraConfig.get()
    plain["run_dir"] = settings.runtime.output_dir
    check_one_folder(list(settings.overrides.task))
    plain["command"] = command_line(list(settings.overrides.task))
    return run(plain)


def check_one_folder(overrides: list[str]) -> None:
    """Refuses processes that were started from outside and do not agree on a folder: each has its own clock.

    Raises:
        ValueError: no run_dir is given.
    """
    from t2ilab.stages.ranks import launched

    if launched() > 1 and not any(key_of(item) == "run_dir" for item in overrides):
        raise ValueError("run_dir: processes that torchrun or srun started need one folder: give run_dir=DIR")


def run(config: dict[str, Any]) -> float | None:
    """Runs the stage of a checked config, in which `run_dir` and `command` are set."""
    module_name, _, function = config["stage"]["job"].rpartition(".")
    return getattr(importlib.import_module(module_name), function)(config)


def command_line(overrides: list[str]) -> str:
    """The shell command that makes the same run again."""
    import shlex

    return " ".join(["python -m t2ilab", *(shlex.quote(item) for item in overrides)])


def check_sweep(overrides: list[str]) -> None:
    """Checks every job of a sweep, so that a fault of the last one does not wait for all others.

    Sweepers that choose values on their way, from what came out so far, are left alone.

    Raises:
        ValueError: what is wrong with which job.
    """
    if any(key_of(item) == "run_dir" for item in overrides):
        raise ValueError(
            "run_dir: with -m every job has a folder of its own; say where with hydra.sweep.dir=DIR"
        )
    if any(key_of(item) == "hydra/sweeper" for item in overrides):
        return
    here = not any(key_of(item) == "hydra/launcher" for item in overrides)
    found = []
    for number, own in enumerate(jobs_of(overrides)):
        try:
            trainer = checked(own).get("trainer") or {}
            if here and trainer.get("devices", 1) * trainer.get("num_nodes", 1) > 1:
                raise ValueError(
                    "trainer.devices: the processes of a job would start the whole sweep again; run such jobs one by "
                    "one, or by a launcher that gives each its own start, as hydra/launcher=submitit_slurm"
                )
        except ValueError as error:
            found.append(f"job {number}, {' '.join(own)}: {error}")
    if found:
        raise ValueError("\n".join(found))


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _entry(config: DictConfig) -> float | None:
    from t2ilab.stages.outcome import Interrupted

    try:
        return job(config)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except (ValueError, OSError) as error:
        if os.environ.get("T2ILAB_TRACEBACK"):
            raise
        print(f"\nerror: {error}\n(T2ILAB_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        with contextlib.suppress(OSError):  # Hydra made it before the check; with files in it, it stays
            Path(HydraConfig.get().runtime.output_dir).rmdir()
        sys.exit(USER_ERROR)


def main() -> None:
    """Entry point of `python -m t2ilab` and of the `t2ilab` script."""
    register_resolvers()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, and we say them in our words
    try:
        given = get_args_parser().parse_args()
        asks = given.help or given.hydra_help or given.cfg or given.info
        if given.multirun and not (asks or given.config_name or given.config_path):
            places = (
                [f"hydra.searchpath=[file://{Path(given.config_dir).resolve()}]"] if given.config_dir else []
            )
            check_sweep([*places, *given.overrides])
        _entry()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if os.environ.get("T2ILAB_TRACEBACK"):
            raise
        print(f"error: {explain(error, [item for item in sys.argv[1:] if '=' in item])}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except BrokenPipeError:  # who reads the help has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if os.environ.get("T2ILAB_TRACEBACK"):
            raise
        print(f"error: run_dir: {error}; choose a folder that can be written to", file=sys.stderr)
        sys.exit(USER_ERROR)
