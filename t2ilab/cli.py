"""The command line: compose, check, run. The only file that knows Hydra and OmegaConf.

Nothing heavy is imported before a run starts, so `--help`, `--cfg job` and a misspelt option answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

USER_ERROR = 2
MIXINS = ("recipe", "debug")  # groups that only override others
NO_PARTS = (*MIXINS, "stage", "weighting")  # weighting is read as loss.weighting
TRIAL = (  # groups cheap enough to be built for trial
    "path", "prediction", "timestep", "loss", "schedule", "ema", "sampler", "guidance", "eval", "logger", "trainer",
    "checkpoint", "model",
)  # fmt: skip


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
    """The resolved config that `python -m t2ilab *overrides` would run, as plain dicts."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = hydra.compose("config", overrides=overrides, return_hydra_config=False)
    return _plain(config)


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _missing(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [
            name for key, item in value.items() for name in _missing(item, f"{path}.{key}" if path else key)
        ]
    return [f"{path}: missing; give {path}=..."] if value == "???" else []


def groups() -> list[str]:
    """The config groups that a stage may read."""
    return sorted(
        path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in NO_PARTS
    )


def check(config: DictConfig) -> dict[str, Any]:
    """Holds the whole config against the code that will read it; gives it back as plain dicts.

    Groups without a choice are None in the result.

    Raises:
        ValueError: listing every fault with its dotted path.
    """
    from t2ilab.check import problems, settings_problems, unused_groups

    stage = config.stage
    unresolved = {group: config.get(group) for group in groups()}
    found = unused_groups(unresolved, list(stage.uses), list(stage.get("optional", [])))
    if not found:  # an unused part may refer to options that this stage does not have
        config_now = _plain(config)
        parts = {group: config_now.get(group) for group in unresolved}
        others = {key: value for key, value in config_now.items() if key not in (*unresolved, *MIXINS)}
        found = _missing(config_now, "") + settings_problems(others)
        found += problems(parts, trial=[group for group in TRIAL if parts[group]])
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ValueError(f"{len(found)} problem{'s' * (len(found) > 1)} in the options:\n{listing}")
    return others | parts


def job(config: DictConfig) -> float | None:
    """Checks the composed config and runs the stage; the value is what a sweep optimises."""
    plain = check(config)
    plain["run_dir"] = HydraConfig.get().runtime.output_dir
    plain["command"] = command_line(list(HydraConfig.get().overrides.task))
    module_name, _, function = plain["stage"]["job"].rpartition(".")
    return getattr(importlib.import_module(module_name), function)(plain)


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
        sys.exit(USER_ERROR)


def _suggest(message: str, overrides: list[str]) -> str | None:
    """What a misspelt override was probably meant to be."""
    from t2ilab.check import dotted, suggestion

    register_resolvers()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        default = OmegaConf.to_container(hydra.compose("config"), resolve=False)
    groups = [path.name for path in conf_folder().iterdir() if path.is_dir()]
    known = list(dict.fromkeys([*groups, *dotted(default)]))
    for override in overrides:
        key = override.split("=")[0].lstrip("+~").split("@")[0]
        if (
            key
            and not key.startswith(("-", "hydra"))
            and key not in known
            and f"'{key.split('.')[-1]}'" in message
        ):
            close = suggestion(key, known)
            return f"unknown option {key}" + (f"; did you mean {close}?" if close else "")
    return None


def main() -> None:
    """Entry point of `python -m t2ilab` and of the `t2ilab` script."""
    register_resolvers()
    ConfigStore.instance()
    overrides = [item for item in sys.argv[1:] if "=" in item]
    sys.excepthook = lambda kind, error, trace: _report(error, overrides)
    os.environ.setdefault(
        "HYDRA_FULL_ERROR", "1"
    )  # errors reach the hook above, which prints them in our words
    _entry()


def _report(error: BaseException, overrides: list[str]) -> None:
    known = isinstance(error, (HydraException, ConfigCompositionException, OmegaConfBaseException))
    if not known or os.environ.get("T2ILAB_TRACEBACK"):
        sys.__excepthook__(type(error), error, error.__traceback__)
        return
    message = f"{error}\n{error.__cause__ or ''}"
    print(f"error: {_suggest(message, overrides) or str(error).strip()}", file=sys.stderr)
