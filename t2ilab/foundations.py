"""The built-in networks: `python -m t2ilab.foundations RUN ...` installs what was exported.

`assets/autoencoder` and `assets/encoder` are made by this project's own stages from recorded recipes (`make
assets`). Beside the weights lies `recipe.json`: the command, the config, the seed, what was measured, and the
sha256 of every file. `verify` holds the files against it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from t2ilab.export.manifest import digest_of_parent, export_folder, file_digest, read_manifest, write_json

ASSETS = Path(__file__).parent / "assets"
FOLDERS = {"autoencoder": "vae", "encoder": "text_encoder"}
RECIPE = "recipe.json"
# where a run happened to lie says nothing about what it made
PLACES = ("command", "init_from", "parents", "run_dir")
LIMIT = 4 << 20  # bytes, all networks together


def install(run: str | Path, assets: Path = ASSETS) -> Path:
    """Copies the network that a run exported into the package; returns its new folder.

    Raises:
        ValueError: the run's export is not one of these.
    """
    kind = json.loads((export_folder(run) / "t2ilab.json").read_text())["kind"]
    if kind not in FOLDERS:
        raise ValueError(f"{run} is an export of kind {kind}; it should be one of {', '.join(FOLDERS)}")
    folder, manifest = read_manifest(run, kind=kind)
    target = assets / kind
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / FOLDERS[kind], target)
    record = {key: manifest[key] for key in ("stage", "steps", "seconds", "evaluation", "t2ilab")}
    record["parents"] = [digest_of_parent(parent) for parent in manifest["parents"]]
    record["config"] = {key: value for key, value in manifest["config"].items() if key not in PLACES}
    record["files"] = {path.name: file_digest(path) for path in sorted(target.iterdir())}
    write_json(target / RECIPE, record)
    return target


def verify(kind: str, assets: Path = ASSETS) -> dict[str, Any]:
    """The record of an installed network, its files unchanged.

    Raises:
        ValueError: a file is missing, changed or not on record.
    """
    folder = assets / kind
    record = json.loads((folder / RECIPE).read_text())
    found = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != RECIPE}
    if found != record["files"]:
        names = sorted(found.keys() | record["files"])
        wrong = [name for name in names if found.get(name) != record["files"].get(name)]
        raise ValueError(
            f"{folder}: {', '.join(wrong)} are not the files of {RECIPE}; make them with `make assets`"
        )
    return dict(record)


def main(runs: list[str]) -> None:
    """Installs the networks of the given run folders and says what they weigh."""
    for run in runs:
        print(f"installed {install(run)}")
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    print(f"built-in networks: {size / 2**20:.2f} MiB")
    if size > LIMIT:
        raise SystemExit(f"the built-in networks may weigh {LIMIT / 2**20:.0f} MiB in all")


if __name__ == "__main__":
    main(sys.argv[1:])
