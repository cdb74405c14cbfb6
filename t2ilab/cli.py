"""The command line: compose, check, run.

Nothing heavy is imported before a run starts, so `--help`, `--cfg job` and a misspelt option answer at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2ilab import __version__
from t2ilab.build import Config
from t2ilab.chain import command_line as chain
from t2ilab.config import saved
from t2ilab.config.composition import check, checked, jobs_of, register_resolvers, unreadable
from t2ilab.config.explain import explain
from t2ilab.config.groups import conf_folder, key_of
from t2ilab.config.overrides import as_typed, check_overrides
from t2ilab.config.show import show
from t2ilab.runs.meeting import lost
from t2ilab.shortage import shortage
from t2ilab.signals import Stopped, came, handled, stop

USER_ERROR = 2
CONFIG = "config"
SWEEPING = ("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra/launcher", "hydra.launcher")
FAILED: list[str] = []  # jobs of this sweep, each with its overrides and its error


def job(config: DictConfig) -> float | None:
    """Checks the composed config and runs the stage; the value is what a sweep optimises."""
    settings = HydraConfig.get()
    plain = check(config, list(settings.overrides.task))
    plain["run_dir"] = settings.runtime.output_dir
    check_one_folder(list(settings.overrides.task), sweep=settings.mode == RunMode.MULTIRUN)
    plain["command"] = command_line(list(settings.overrides.task), flags_of(settings))
    return run(plain)


def check_one_folder(overrides: list[str], *, sweep: bool = False) -> None:
    """Refuses processes that were started from outside and do not agree on a folder: each has its own clock.

    Args:
        sweep: whether this is a job of one, whose launcher has told all its processes the folder.

    Raises:
        ValueError: no run_dir is given.
    """
    from t2ilab.runs.ranks import launched

    if launched() > 1 and not sweep and not any(key_of(item) == "run_dir" for item in overrides):
        raise ValueError("run_dir: processes that torchrun or srun started need one folder: give run_dir=DIR")


def run(config: Config) -> float | None:
    """Runs the stage of a checked config, in which `run_dir` and `command` are set."""
    module_name, _, function = config["stage"]["job"].rpartition(".")
    return getattr(importlib.import_module(module_name), function)(config)


def command_line(overrides: list[str], flags: Sequence[str] = ()) -> str:
    """The shell command that makes the same run again."""
    import shlex

    return " ".join(["python -m t2ilab", *(shlex.quote(item) for item in (*flags, *overrides))])


def flags_of(settings: Any) -> list[str]:
    """What a command says beside the options of the run: its config folders, and Hydra's own options.

    A job of a sweep is made again alone, so what says how to sweep is left out.
    """
    folders = {source.provider: source.path for source in settings.runtime.config_sources}
    flags = ["--config-dir", folders["command-line"]] if "command-line" in folders else []
    if Path(folders["main"]) != conf_folder():
        flags += ["--config-path", folders["main"]]
    if settings.job.config_name != CONFIG:
        flags += ["--config-name", settings.job.config_name.removeprefix(saved.PREFIX)]
    return flags + [item for item in settings.overrides.hydra if not key_of(item).startswith(SWEEPING)]


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
    from t2ilab.build import build

    here = not any(key_of(item) == "hydra/launcher" for item in overrides)
    found = []
    for number, own in enumerate(jobs_of(overrides)):
        try:
            trainer = checked(own).get("trainer")
            if here and trainer and getattr(build(trainer), "world", 1) > 1:
                raise ValueError(
                    "trainer.devices: the processes of a job would start the whole sweep again; run such jobs one by "
                    "one, or by a launcher that gives each its own start, as hydra/launcher=submitit_slurm"
                )
        except ValueError as error:
            found.append(f"job {number}, {' '.join(own)}: {error}")
    if found:
        raise ValueError("\n".join(found))


def _entry(config: DictConfig) -> float | None:
    from t2ilab.runs.outcome import Interrupted

    try:
        with handled(stop):
            return job(config)
    except Interrupted as ended:
        print(ended, file=sys.stderr)
        sys.exit(ended.status)
    except Stopped as ended:
        print("\nstopped, what was finished is kept", file=sys.stderr)
        sys.exit(ended.status)
    except Exception as error:
        if (number := came()) is not None:  # a library has made another error of it
            print("\nstopped, what was finished is kept", file=sys.stderr)
            sys.exit(128 + number)
        told = sentence(error, config)
        if told is None or os.environ.get("T2ILAB_TRACEBACK"):
            if not _goes_on():
                raise
            traceback.print_exc()
        else:
            print(f"\nerror: {told}\n(T2ILAB_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        folder = Path(HydraConfig.get().runtime.output_dir)
        with contextlib.suppress(OSError):  # Hydra made it before the check; with files in it, it stays
            folder.rmdir()
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(USER_ERROR)
        _failed(folder, told or f"{type(error).__name__}: {error}")
        return None


def sentence(error: Exception, config: DictConfig) -> str | None:
    """What to tell a user of an error; None if it is a fault of the program, which shows its traceback."""
    short = shortage(error, lambda key: OmegaConf.select(config, key)) or lost(error)
    return short or (str(error) if isinstance(error, ValueError | OSError) else None)


def _goes_on() -> bool:
    """Whether this is a job of a sweep that Hydra itself runs one by one, here: it goes on past a job that failed."""
    settings = HydraConfig.get()
    kinds = [
        str(node.get("_target_", "")).rpartition(".")[2] for node in (settings.sweeper, settings.launcher)
    ]
    return settings.mode == RunMode.MULTIRUN and kinds == ["BasicSweeper", "BasicLauncher"]


def _failed(folder: Path, told: str) -> None:
    """Notes a job of a sweep that failed; other sweepers and launchers learn it by an exception.

    Raises:
        ValueError: Hydra's own sweeper is not the one that asks.
    """
    settings = HydraConfig.get()
    overrides = " ".join(settings.overrides.task)
    if not _goes_on():
        raise ValueError(f"{overrides}: {told}")
    FAILED.append(f"  job {settings.job.num}, {overrides} (in {os.path.relpath(folder)}): {told}")
    gc.collect()  # the networks of the job hang on its traceback


def say_failed() -> None:
    """Lists the jobs of a sweep that failed, if any did."""
    if FAILED:
        jobs = "1 job of this sweep" if len(FAILED) == 1 else f"{len(FAILED)} jobs of this sweep"
        print(f"\nerror: {jobs} failed:", *FAILED, sep="\n", file=sys.stderr)


def main() -> None:
    """Entry point of `python -m t2ilab` and of the `t2ilab` script."""
    register_resolvers()
    FAILED.clear()
    for stream in (sys.stdout, sys.stderr):  # a name or caption may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us, and we say them in our words
    try:
        _answer(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if os.environ.get("T2ILAB_TRACEBACK"):
            raise
        _say(explain(error, [item for item in sys.argv[1:] if "=" in item]))
    except BrokenPipeError:  # who reads the help has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if os.environ.get("T2ILAB_TRACEBACK"):
            raise
        _say(f"run_dir: {error}; choose a folder that can be written to")
    except Exception as error:
        if os.environ.get("T2ILAB_TRACEBACK") or _in_job(error):
            raise
        _say(unreadable(error))


def _answer(arguments: list[str]) -> None:
    """Does what the arguments ask for."""
    if arguments[:1] in (["show"], ["--options"]):
        print(show(arguments[1:]))
        return
    if "--version" in arguments:
        print(f"t2ilab {__version__}")
        return
    parser = get_args_parser()
    given = parser.parse_args(arguments)
    if given.help:
        print(help_text())
        return
    given.overrides = as_typed(given.overrides, sweep=given.multirun)
    check_overrides(given.overrides)
    if chain.is_chain(given.overrides):
        given.overrides = chain.sorted_out(given.overrides)
    file = saved.saved_config(given.config_dir or given.config_path, given.config_name)
    if file:
        given.config_name = saved.store(file, given.overrides)
        given.config_dir, given.config_path = str(file.parent), None
    asks = given.hydra_help or given.cfg or given.info
    if given.multirun and not (asks or given.config_name or given.config_path):
        places = [f"hydra.searchpath=[file://{Path(given.config_dir).resolve()}]"] if given.config_dir else []
        check_sweep([*places, *given.overrides])
    version.setbase("1.3")
    try:
        _run_hydra(given, parser, task_function=_entry, config_path=str(conf_folder()), config_name=CONFIG)
    finally:
        say_failed()
    if FAILED:
        sys.exit(USER_ERROR)


def help_text() -> str:
    """What `--help` says: a screen, with nothing composed."""
    import yaml

    text = yaml.safe_load((conf_folder() / "config.yaml").read_text())["hydra"]["help"]["template"]
    return str(text).rstrip()


def _say(fault: str) -> NoReturn:
    print(f"error: {fault}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _in_job(error: BaseException) -> bool:
    """Whether it was raised by a run, not by the reading of its command."""
    return any(frame.f_code is job.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
