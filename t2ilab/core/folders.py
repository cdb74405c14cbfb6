"""Where the files of a foundation model are looked for."""

from __future__ import annotations

from pathlib import Path


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
    folder = Path(__file__).parents[1] / path if inside else Path(path).expanduser()
    if not folder.is_dir():
        hint = "make it with `make assets`" if inside else f"set {option} to a folder on this disk"
        raise ValueError(f"{option}: there is no folder {folder}; {hint}")
    return folder
