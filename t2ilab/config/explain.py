"""What is wrong with a command line that Hydra could not compose, in words that help."""

from __future__ import annotations

import shlex

import hydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2ilab.config.composition import register_resolvers
from t2ilab.config.groups import INSIDE, all_groups, conf_folder, key_of
from t2ilab.config.overrides import KEPT, quoted

DRAWING = ("sample", "evaluate", "pairs", "export")  # stages that train nothing
OF_THE_MODEL = ("sampler", "guidance")  # of `init_from`, unless another one is chosen


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
            return f"{override}: make a choice" + (
                f", or omit the group with ~{key}" if key not in KEPT else ""
            )
    if isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException):  # one of ours
        return str(error)
    message = f"{error}\n{error.__cause__ or ''}"
    return _grammar(error, overrides) or _unknown_option(message, overrides) or str(error).strip()


def _grammar(error: Exception, overrides: list[str]) -> str | None:
    """What Hydra's grammar does not know, or takes for several runs."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    first = str(error).partition("\n")[0]
    several = [item for item in overrides if first.startswith("Ambiguous value") and f"'{item}'" in first]
    return _several(several[0]) if several else None


def _unreadable(override: str) -> str:
    """What to do with an override that Hydra's grammar does not know."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: not an option; write option=value or group=choice, and quote what holds spaces"
    return (
        f"{override}: this cannot be read; what holds special characters is quoted: {_in_shell(key, value)}"
    )


def _several(override: str) -> str:
    """What an override with commas may mean."""
    key, _, value = override.partition("=")
    return (
        f"{override}: with -m these are several runs; as a list it is '{key}=[{value}]', "
        f"as one text {_in_shell(key, value)}"
    )


def _in_shell(key: str, value: str) -> str:
    return shlex.quote(f"{key}={quoted(value)}")


def _wrong_choice(group: str, choice: str, options: list[str]) -> str:
    from t2ilab.config.names import suggestion
    from t2ilab.config.other_tools import STAGES

    close = suggestion(choice, options)
    likely = STAGES.get(choice) if group == "stage" else None
    likely = likely or (f"{group}={close}" if close else None)
    meant = f"; did you mean {likely}?" if likely else ""
    return f"there is no {group}={choice}{meant}\nthe choices are: {', '.join(sorted(options))}"


def _unknown_option(message: str, overrides: list[str]) -> str | None:
    """What a misspelt override was probably meant to be."""
    from t2ilab.config.names import suggestion
    from t2ilab.config.other_tools import called_here

    known = _known([item for item in overrides if key_of(item).split("@")[0] in all_groups()])
    for override in overrides:
        key = key_of(override)
        named = f"'{key}'" in message or f"'{key.split('.')[-1]}'" in message
        if not key or key.startswith(("-", "hydra")) or key in known or not named:
            continue
        if key.partition("@")[0] in INSIDE:
            return _no_place(key)
        if meant := called_here(key, trains=not {f"stage={name}" for name in DRAWING} & set(overrides)):
            return f"unknown option {key}; here it is {meant}"
        if choices := _choices_with(key):
            group = key.partition(".")[0]
            left = group in OF_THE_MODEL and not any(key_of(item) == group for item in overrides)
            advice = f"; choose one in place of the {group} that the model has" if left else ""
            return f"{key} is an option of {', '.join(choices)}, which this command does not choose{advice}"
        close = suggestion(key, known)
        return f"unknown option {key}" + (f"; did you mean {close}?" if close else "")
    return None


def _choices_with(key: str) -> list[str]:
    """The choices `group=name` that have this option."""
    from t2ilab.config.names import dotted

    group, _, rest = key.partition(".")
    files = sorted((conf_folder() / group).glob("*.yaml")) if rest else []
    known = {file: dotted(OmegaConf.to_container(OmegaConf.load(file), resolve=False)) for file in files}
    return [f"{group}={file.stem}" for file in files if {rest, key} & set(known[file])]


def _no_place(key: str) -> str:
    """That what this command chooses has no such part, and which choices have it."""
    part, _, place = key.partition("@")
    owner = INSIDE[part].split(".")[0]
    files = sorted((conf_folder() / owner).glob("*.yaml"))
    able = [f"{owner}={file.stem}" for file in files if f"/{part}@" in file.read_text()]
    if place != INSIDE[part]:
        return f"unknown option {key}; did you mean {part}@{INSIDE[part]}?"
    return f"the {owner} that this command chooses has no {part}; these have: {', '.join(able)}"


def _known(choices: list[str]) -> list[str]:
    """Every group and dotted key that exists with these choices, or with none if they do not compose."""
    from t2ilab.config.names import dotted

    register_resolvers()
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = OmegaConf.to_container(hydra.compose("config", overrides=choices), resolve=False)
    except Exception:  # whatever Hydra makes of choices that are none; the fault itself is told by the caller
        return _known([]) if choices else []
    return list(dict.fromkeys([*all_groups(), *dotted(config)]))
