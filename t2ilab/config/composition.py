"""Config files and overrides become one config: composed by Hydra, resolved, held against the code that will read it.

Only this file, `cli.py` and `explain.py` know Hydra and OmegaConf.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2ilab.config.groups import INSIDE, all_groups, conf_folder, groups
from t2ilab.config.names import is_path_option
from t2ilab.config.overrides import check_overrides, own_debug
from t2ilab.core.folders import expanded

# settings outside groups that a stage reads only if its `uses` say so
NAMED = ("init_from", "runs", "prompts", "chain")


def register_resolvers() -> None:
    """`${div:a,b}`: an exact division of sizes that follow from others; `${home:path}`: with `~` as the home."""

    def divide(whole: int, part: int) -> int:
        if part == 0 or whole % part:
            raise ValueError(
                f"{whole} is not a multiple of {part}: data.resolution must be one of the autoencoder's factor"
            )
        return whole // part

    OmegaConf.register_new_resolver("div", divide, replace=True)
    OmegaConf.register_new_resolver("home", expanded, replace=True)


def compose(overrides: list[str]) -> dict[str, Any]:
    """The resolved config that `python -m t2ilab *overrides` would run, as plain dicts, without the check."""
    from t2ilab.build import with_numbers

    config: dict[str, Any] = with_numbers(_plain(composed(overrides)))
    return config


def checked(overrides: list[str]) -> dict[str, Any]:
    """As `compose`, after the check, with groups without a choice as None: what the stage's function takes."""
    return check(composed(overrides), overrides)


def jobs_of(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper makes them.

    Raises:
        HydraException: a sweep that this sweeper cannot do.
    """
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # for model=glob(dit_*)
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
    return jobs


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of these overrides as Hydra composes it, also from inside a job of Hydra's own.

    Raises:
        HydraException, ValueError: they do not compose.
    """
    register_resolvers()
    overrides = own_debug(list(overrides))
    check_overrides(overrides)
    running = GlobalHydra.instance()
    outer, running.hydra = running.hydra, None
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return hydra.compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # what Hydra and OmegaConf make of values of a wrong kind
        raise ValueError(unreadable(error)) from error
    finally:
        running.hydra = outer


def unreadable(error: Exception) -> str:
    """That a command line is composed to nothing, where Hydra and OmegaConf break on it without a sentence."""
    first = str(error).strip().partition("\n")[0]
    return (
        f"this command cannot be read, a value in it is of the wrong kind ({type(error).__name__}: {first})"
    )


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _resolved(node: Any, path: str, found: list[str]) -> Any:
    """The plain values of a config node; what is missing or cannot be resolved is noted and left as "???"."""
    from t2ilab.config.signature import UNKNOWN

    if isinstance(node, ListConfig):
        return [_resolved(item, f"{path}[{number}]", found) for number, item in enumerate(node)]
    if not isinstance(node, DictConfig):
        return expanded(node) if isinstance(node, str) and is_path_option(path) else node
    plain = {}
    for key in node:
        if not isinstance(key, str):
            found.append(f"{path}.{key!s}: the name of an option is a text, got {key!r}")
            continue
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
            written = " (a text that holds a dollar and a brace is written \\${...})" * (
                "Interpolation key" in cause
            )
            found.append(f"{name}: {cause}{written}")
    return plain


def _given_by_the_model(line: str, both: Sequence[str], inherits: Sequence[str]) -> bool:
    """Whether a fault is that a choice waits for a size that the model of init_from gives it.

    Args:
        both: groups that the model decides unless the command does; inherits: all that it decides.
    """
    waits = rf"({'|'.join(both)})[.\[].*: Interpolation key '({'|'.join(inherits)})\."
    return bool(both) and re.match(waits, line) is not None


def left_to_the_model(inherits: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The groups of a stage's model that `debug=` chose for it, and nobody else."""
    typed = {re.split(r"[.@=]", item.lstrip("+~"), maxsplit=1)[0] for item in overrides}
    return [name for name in inherits if name not in typed] if "debug" in typed else []


def check(config: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Holds the whole config against the code that will read it; gives it back as plain dicts.

    Groups without a choice are None in the result, and rules that make a number are that number. What `debug=` chose
    of a model is None as well where the stage takes that of `init_from`.

    Args:
        overrides: the command line that the config was composed of.

    Raises:
        ValueError: listing every fault with its dotted path.
    """
    from t2ilab.build import with_numbers
    from t2ilab.config.check import group_of, misfits, problems
    from t2ilab.config.settings import settings_problems, unused
    from t2ilab.stages.faults import wrong_kinds

    if not isinstance(config.get("stage"), DictConfig) or "uses" not in config.stage:
        raise ValueError("stage: this is needed: a choice, stage=pretrain")
    uses, optional = list(config.stage.uses), list(config.stage.get("optional", []))
    inherits = list(config.stage.get("inherits", []))
    if "debug=tiny" in overrides and not {"optimizer", "chain"} & {*uses, *optional}:
        raise ValueError(
            f"debug=tiny makes a training small, and stage={config.stage.name} trains nothing: omit it; small "
            "numbers here are eval=quick, sampler.grid.steps=4 or fewer prompts"
        )
    given = {name: config.get(name) or None for name in (*groups(), *NAMED) if name != "stage"}
    left = left_to_the_model(inherits, overrides)
    given |= dict.fromkeys(left)
    found = unused(given, uses, optional, inherits)
    read = {"stage", *uses, *optional}.difference(left)
    parts = {
        name: _resolved(config.get(name), name, found) or None if name in read else None for name in groups()
    }
    settings = {
        str(name): _resolved(config[name], str(name), found) for name in config if name not in all_groups()
    }
    both = [name for name in inherits if name in optional]
    found = [line for line in found if not _given_by_the_model(line, both, inherits)]
    found += settings_problems(settings, several="adapter_scale" in config.stage or "init_from" not in uses)
    found += [
        f"{name}: choose it with {name}@{place}=..." for name, place in INSIDE.items() if name in config
    ]
    found += wrong_kinds(parts)
    found += problems(parts, trial=list(parts), unsound={group_of(line) for line in found})
    found += misfits(parts, {group_of(line) for line in found})
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ValueError(f"{len(found)} problem{'s' * (len(found) > 1)} in the options:\n{listing}")
    return settings | with_numbers(parts)
