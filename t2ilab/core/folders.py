"""Where the files of a pretrained network are looked for."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str) -> str:
    """The path with `~` and `~name` in front as the home; that of an unknown user remains as it is."""
    return os.path.expanduser(path)  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def local_folder(path: str | None, option: str) -> Path:
    """The folder that an option names; a path that begins with "assets/" lies inside this package.

    Raises:
        ValueError: naming `option`, if no path was given or there is no such folder.
    """
    if not path:
        raise ValueError(
            f"{option}=<folder> is needed: nothing is downloaded, name a model's folder on this disk"
        )
    inside = path.startswith("assets/")
    folder = Path(__file__).parents[1] / path if inside else Path(expanded(path))
    if not os.path.isdir(folder):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        hint = "make it with `make assets`" if inside else f"set {option} to a folder on this disk"
        raise ValueError(f"{option}: there is no folder {folder}; {hint}")
    return folder
