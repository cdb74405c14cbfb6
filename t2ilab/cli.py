"""The command line: compose, check, run. The only file that knows Hydra and OmegaConf.

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
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

USER_ERROR = 2
MIXINS = ("recipe", "debug")  # groups that only override others
INSIDE = {  # groups whose choices are parts of others
    "shift": "timestep.shift",
    "weighting": "loss.weighting",
    "perceptual": "loss.perceptual",
    "latent_alignment": "loss.latent_alignment",
    "features": "terms.repa.encoder",
    "routing": "model.routing",
}
NO_PARTS = (*MIXINS, *INSIDE)
NAMED = ("init_from", "prompts")  # settings outside groups that a stage reads only if its `uses` say so


def conf_folder() -> Path:
    """The config folder: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml in {package} or beside it: the installation is incomplete")


def register_resolvers() -> None:
    """`${div:a,b}`: an exact integer division, for sizes that follow from others."""

    def divide(whole: int, part: int) -> int:
        if part == 0 or whole % part:
            raise ValueError(
                f"{whole} is not a multiple of {part}: data.resolution must be one of the autoencoder's factor"
            )
        return whole // part

    OmegaConf.register_new_resolver("div", divide, replace=True)


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved config that `python -m t2ilab *overrides` would run, as plain dicts, without the check."""
    from t2ilab.build import with_numbers

    config: dict[str, Any] = with_numbers(_plain(_composed(overrides)))
    return config


def checked(overrides: list[str]) -> dict[str, Any]:
    """As `compose`, after the check, with groups without a choice as None: what the stage's function takes."""
    return check(_composed(overrides))


def _composed(overrides: list[str]) -> DictConfig:
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra.compose("config", overrides=overrides)


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _resolved(node: Any, path: str, found: list[str]) -> Any:
    """The plain values of a config node; what is missing or cannot be resolved is noted and left as "???"."""
    from t2ilab.check import UNKNOWN

    if isinstance(node, ListConfig):
        return [_resolved(item, f"{path}[{number}]", found) for number, item in enumerate(node)]
    if not isinstance(node, DictConfig):
        return node
    plain = {}
    for key in map(str, node):
        name = f"{path}.{key}"
        plain[key] = UNKNOWN
        try:
            if OmegaConf.is_missing(node, key):
                found.append(f"{name}: missing; give {name}=...")
            else:
                plain[key] = _resolved(node[key], name, found)
        except OmegaConfBaseException as error:
            cause = (
                str(error).splitlines()[0].removeprefix("ValueError raised while resolving interpolation: ")
            )
            found.append(f"{name}: {cause}")
    return plain


def all_groups() -> list[str]:
    """Every config group."""
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir())


def groups() -> list[str]:
    """The config groups that become parts of a run."""
    return [name for name in all_groups() if name not in NO_PARTS]


def check(config: DictConfig) -> dict[str, Any]:
    """Holds the whole config against the code that will read it; gives it back as plain dicts.

    Groups without a choice are None in the result, and rules that make a number are that number.

    Raises:
        ValueError: listing every fault with its dotted path.
    """
    from t2ilab.build import with_numbers
    from t2ilab.check import group_of, misfits, problems
    from t2ilab.settings import settings_problems, unused

    uses, optional = list(config.stage.uses), list(config.stage.get("optional", []))
    given = {name: config.get(name) or None for name in (*groups(), *NAMED) if name != "stage"}
    found = unused(given, uses, optional)
    read = {"stage", *uses, *optional}
    parts = {
        name: _resolved(config.get(name), name, found) or None if name in read else None for name in groups()
    }
    settings = {
        str(name): _resolved(config[name], str(name), found) for name in config if name not in all_groups()
    }
    found += settings_problems(settings)
    found += [
        f"{name}: choose it with {name}@{place}=..." for name, place in INSIDE.items() if name in config
    ]
    found += problems(parts, trial=list(parts), unsound={group_of(line) for line in found})
    found += misfits(parts, {group_of(line) for line in found})
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ValueError(f"{len(found)} problem{'s' * (len(found) > 1)} in the options:\n{listing}")
    return settings | with_numbers(parts)


def job(config: DictConfig) -> float | None:
    """Checks the composed config and runs the stage; the value is what a sweep optimises."""
    plain = check(config)
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN and any(_key(item) == "run_dir" for item in overrides):
        raise ValueError(
            "run_dir: with -m every job has a folder of its own; say where with hydra.sweep.dir=DIR"
        )
    plain["run_dir"] = settings.runtime.output_dir
    plain["command"] = command_line(overrides)
    return run(plain)


def run(config: dict[str, Any]) -> float | None:
    """Runs the stage of a checked config, in which `run_dir` and `command` are set."""
    module_name, _, function = config["stage"]["job"].rpartition(".")
    return getattr(importlib.import_module(module_name), function)(config)


def command_line(overrides: list[str]) -> str:
    """The shell command that makes the same run again."""
    import shlex

    return " ".join(["python -m t2ilab", *(shlex.quote(item) for item in overrides)])


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


def explain(error: Exception, overrides: list[str]) -> str:
    """What is wrong with a command line that Hydra could not compose, with the option that was probably meant."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return _wrong_choice(group, choice, list(error.options))
    for override in overrides:
        key, _, value = override.partition("=")
        if key in INSIDE:
            return (
                f"{key} is a part of {INSIDE[key].split('.')[0]}: choose it with {key}@{INSIDE[key]}={value}"
            )
        if value == "null" and key in all_groups():
            return f"{override}: make a choice, or leave the group away with ~{key}"
    message = f"{error}\n{error.__cause__ or ''}"
    return _unknown_option(message, overrides) or str(error).strip()


def _wrong_choice(group: str, choice: str, options: list[str]) -> str:
    from t2ilab.names import suggestion

    close = suggestion(choice, options)
    meant = f"; did you mean {group}={close}?" if close else ""
    return f"there is no {group}={choice}{meant}\nthe choices are: {', '.join(sorted(options))}"


def _unknown_option(message: str, overrides: list[str]) -> str | None:
    """What a misspelt override was probably meant to be."""
    from t2ilab.names import suggestion

    known = _known([item for item in overrides if _key(item).split("@")[0] in all_groups()])
    for override in overrides:
        key = _key(override)
        named = f"'{key}'" in message or f"'{key.split('.')[-1]}'" in message
        if not key or key.startswith(("-", "hydra")) or key in known or not named:
            continue
        if key.partition("@")[0] in INSIDE:
            return _no_place(key)
        choices = _choices_with(key)
        if choices:
            return f"{key} is an option of {', '.join(choices)}, which this command does not choose"
        close = suggestion(key, known)
        return f"unknown option {key}" + (f"; did you mean {close}?" if close else "")
    return None


def _choices_with(key: str) -> list[str]:
    """The choices `group=name` that have this option."""
    from t2ilab.names import dotted

    group, _, rest = key.partition(".")
    files = sorted((conf_folder() / group).glob("*.yaml")) if rest else []
    return [
        f"{group}={file.stem}"
        for file in files
        if rest in dotted(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
    ]


def _no_place(key: str) -> str:
    """That what this command chooses has no such part, and which choices have it."""
    part, _, place = key.partition("@")
    owner = INSIDE[part].split(".")[0]
    files = sorted((conf_folder() / owner).glob("*.yaml"))
    able = [f"{owner}={file.stem}" for file in files if f"/{part}@" in file.read_text()]
    if place != INSIDE[part]:
        return f"unknown option {key}; did you mean {part}@{INSIDE[part]}?"
    return f"the {owner} that this command chooses has no {part}; these have: {', '.join(able)}"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _known(choices: list[str]) -> list[str]:
    """Every group and dotted key that exists with these choices, or with none if they do not compose."""
    from t2ilab.names import dotted

    register_resolvers()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = OmegaConf.to_container(hydra.compose("config", overrides=choices), resolve=False)
    except HydraException:
        return _known([]) if choices else []
    return list(dict.fromkeys([*all_groups(), *dotted(config)]))
