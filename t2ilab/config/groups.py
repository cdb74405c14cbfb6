"""The folder of config files and the groups in it."""

from __future__ import annotations

from pathlib import Path

MIXINS = ("recipe", "debug")  # groups that only override others
INSIDE = {  # groups whose choices are parts of others
    "shift": "timestep.shift",
    "weighting": "loss.weighting",
    "perceptual": "loss.perceptual",
    "latent_alignment": "loss.latent_alignment",
    "features": "terms.repa.encoder",
    "scorer": "eval.scorer",
    "routing": "model.routing",
    "levels": "loss.levels",
}
NO_PARTS = (*MIXINS, *INSIDE)


def conf_folder() -> Path:
    """The config folder: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml in {package} or beside it: the installation is incomplete")


def all_groups() -> list[str]:
    """Every config group."""
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir())


def groups() -> list[str]:
    """The config groups that become parts of a run."""
    return [name for name in all_groups() if name not in NO_PARTS]


def key_of(override: str) -> str:
    """The name before the equals sign, without what it says about adding or taking away."""
    return override.partition("=")[0].lstrip("+~")
