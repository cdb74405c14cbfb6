"""A run's own `config.yaml` as the start of another command.

`python -m t2ilab --config-dir RUN` composes the default config without any choice, and puts what is in
RUN/config.yaml in their place: every option of that run, in a folder of its own unless run_dir is given.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from t2ilab.config.groups import all_groups, conf_folder, key_of

PREFIX = "saved_run_"  # of such a config's name among Hydra's
OF_THE_RUN = ("run_dir", "command")


def saved_config(folder: str | None, name: str | None) -> Path | None:
    """The file `name`.yaml of a folder if a run wrote it, else None."""
    if folder is None or "://" in folder:
        return None
    file = Path(folder) / f"{(name or 'config').removesuffix('.yaml')}.yaml"
    return file if file.is_file() and _read(file) else None


def store(file: Path, overrides: list[str]) -> str:
    """Makes the options of a run known to Hydra, and gives their name; overridden groups are left to Hydra."""
    chosen = {key_of(override) for override in overrides}
    kept = {key: value for key, value in _read(file).items() if key not in {*OF_THE_RUN, *chosen}}
    no_choice: list[Any] = [{f"override /{group}": None} for group in _groups_with_a_default()]
    name = PREFIX + file.stem
    ConfigStore.instance().store(name, {"defaults": ["config", *no_choice, "_self_"], **_literal(kept)})
    return name


def _groups_with_a_default() -> list[str]:
    import yaml

    defaults = yaml.safe_load((conf_folder() / "config.yaml").read_text())["defaults"]
    named = [name for item in defaults if isinstance(item, dict) for name in item]
    return [name for name in named if name in all_groups()]


def _read(file: Path) -> dict[str, Any]:
    """What a run wrote; an empty dict if no run did."""
    import yaml

    try:
        plain = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    stage = plain.get("stage") if isinstance(plain, dict) and "defaults" not in plain else None
    return plain if isinstance(stage, dict) and "_target_" in stage else {}


def _literal(value: object) -> Any:
    """Texts with `${` are texts: everything was resolved when it was written."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value
