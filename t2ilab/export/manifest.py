"""`t2ilab.json`, the manifest of an export: what it is, the sha256 of every file, and where its encoders lie.

Encoders travel inside the export, as `./vae` and the like in the config nodes; large ones are referred to by their
path and the digest of their folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ilab import __version__
from t2ilab.build import Node
from t2ilab.core.folders import expanded, local_folder
from t2ilab.data.cache import cache_root, digest_of
from t2ilab.files import whole_file

FORMAT = 1
MANIFEST = "t2ilab.json"
KINDS = ("denoiser", "adapter", "autoencoder", "encoder", "reward", "pairs")
# Options that name a folder, with its place in an export.
FOLDERS = {"path": None, "tokenizer_path": "tokenizer", "learned": "learned"}
REMEMBERED_BYTES = 256 << 20  # files from this size on are not read at every start
CARRY_BYTES = 64 << 20  # encoders up to this size travel inside the export


def export_folder(path: str | Path, option: str = "init_from") -> Path:
    """The export inside a run folder, or the folder itself.

    Args:
        option: that names it, for errors.

    Raises:
        ValueError: naming the option, if there is none.
    """
    path = Path(expanded(str(path)))
    for folder in (path / "export", path):
        if (folder / MANIFEST).is_file():
            return folder
    if path.is_file():
        raise ValueError(
            f"{option}={path} is a file: give the folder of its run, or the folder export/ in it; an adapter of "
            "another tool goes behind its model, init_from=[RUN,FILE.safetensors]"
        )
    if not path.is_dir():
        raise ValueError(f"{option}={path}: there is no such folder")
    if runs := sorted(file.parents[1].name for file in path.glob(f"*/export/{MANIFEST}")):
        some = ", ".join(runs[:5]) + (", ..." if len(runs) > 5 else "")
        raise ValueError(
            f"{option}={path} holds {len(runs)} finished runs ({some}): give the folder of one of them"
        )
    raise ValueError(
        f"{option}={path}: neither it nor its folder export/ holds {MANIFEST}; "
        "give the folder of a finished run (an unfinished one is measured and exported by its own command with "
        "trainer.max_steps=<the step of its last checkpoint>, and goes on by the old one)"
    )


def read_manifest(
    path: str | Path, *, kind: str | tuple[str, ...], option: str = "init_from"
) -> tuple[Path, dict[str, Any]]:
    """The export folder and its manifest, all files present and unchanged.

    Raises:
        ValueError: another kind or format, a missing file, or one whose sha256 differs.
    """
    folder, manifest = manifest_of(path, kind=kind, option=option)
    check_files(folder, manifest, f"{option}={path}")
    return folder, manifest


def manifest_of(
    path: str | Path, *, kind: str | tuple[str, ...], option: str = "init_from"
) -> tuple[Path, dict[str, Any]]:
    """The export folder and its manifest, before any of its files is looked at.

    Raises:
        ValueError: another kind or format.
    """
    folder = export_folder(path, option)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        raise ValueError(f"{option}={path}: {folder / MANIFEST} is damaged ({error})") from error
    if not isinstance(manifest, dict) or not {"format", "kind", "files"} <= manifest.keys():
        raise ValueError(f"{option}={path}: {folder / MANIFEST} is not the manifest of an export")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{option}={path}: format {manifest['format']}, this version of t2ilab reads {FORMAT}"
        )
    kinds = (kind,) if isinstance(kind, str) else kind
    if manifest["kind"] not in kinds:
        raise ValueError(
            f"{option}={path} is an export of kind {manifest['kind']}; a {' or '.join(kinds)} is needed here"
        )
    return folder, manifest


def check_files(folder: Path, manifest: Mapping[str, Any], where: str) -> None:
    """Refuses an export whose files are not those of its manifest.

    Args:
        where: the option that names it, with its value.

    Raises:
        ValueError: one is missing, or its sha256 differs.
    """
    check_present(folder, manifest, where)
    for name, digest in manifest["files"].items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"{where}: {name} has changed since it was exported (its sha256 differs)")


def check_present(folder: Path, manifest: Mapping[str, Any], where: str) -> None:
    """Refuses an export that lacks a file, or a folder that it refers to; reads none.

    Args:
        where: the option that names it, with its value.

    Raises:
        ValueError: naming what is missing.
    """
    for name in manifest["files"]:
        if not (folder / name).is_file():
            raise ValueError(f"{where}: the export lacks {name}; export it again or copy the folder whole")
    for name in manifest.get("references", {}):
        if not Path(name).is_dir():
            raise ValueError(f"{where} refers to {name}, which is not on this machine")


def as_parent(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """How later exports name this one: where it lay, the sha256 of its manifest (and so of every file), its stage."""
    path = str(folder.absolute())  # an adapter looks for its base there, from wherever it is read
    return {"path": path, "digest": file_digest(folder / MANIFEST), "stage": str(manifest["stage"])}


def base_folder(folder: Path, record: Mapping[str, str]) -> Path | None:
    """Where the base of an adapter lies: where it lay, or, by its digest, where it moved to along with the adapter,
    or beside the adapter's run; None if it is in none of these.

    Args:
        folder: export of the adapter; record: path and digest of its base.
    """
    was, here = Path(record["path"]), folder.absolute()
    if was.is_dir():
        return was
    along = (
        above.joinpath(*was.parts[first:]) for above in here.parents for first in range(1, len(was.parts))
    )
    beside = (file.parent for file in here.parents[1].glob(f"*/export/{MANIFEST}"))
    places = (place for place in (*along, *beside) if (place / MANIFEST).is_file())
    return next((one for one in places if file_digest(one / MANIFEST) == record["digest"]), None)


def digest_of_parent(parent: Mapping[str, str]) -> str:
    """The digest in an entry of `parents`, which exports of the first version call sha256."""
    return parent["digest"] if "digest" in parent else parent["sha256"]


def write_manifest(folder: Path, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes `t2ilab.json` last, with the sha256 of every other file of the folder."""
    assert kind in KINDS
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
    manifest = {"format": FORMAT, "kind": kind, "t2ilab": __version__, **facts, "files": digests}
    write_json(folder / MANIFEST, manifest)
    return manifest


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over names and contents of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = json.dumps([[str(path.relative_to(folder)), known_digest(path)] for path in files])
    return hashlib.sha256(text.encode()).hexdigest()


def package_digest() -> str:
    """sha256 over the code of t2ilab."""
    root = Path(__file__).parents[1]
    return digest_of({str(path.relative_to(root)): file_digest(path) for path in sorted(root.rglob("*.py"))})


def known_digest(path: Path) -> str:
    """sha256 of a file; a large one is read again only if its size or time has changed since it was last read."""
    status = path.stat()
    if status.st_size < REMEMBERED_BYTES:
        return file_digest(path)
    key = digest_of({"file": str(path.resolve()), "size": status.st_size, "time": status.st_mtime_ns})
    note = cache_root() / "digests" / key
    try:
        return note.read_text()
    except OSError:
        digest = file_digest(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, digest)
    return digest


def identity(node: Node) -> dict[str, Any]:
    """A config node, and the nodes in it, with digests in place of the folders they read: what decides its output."""
    node = {key: identity(value) if isinstance(value, dict) else value for key, value in node.items()}
    return node | {key: folder_digest(local_folder(node[key], key)) for key in FOLDERS if node.get(key)}


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def carry(node: Node, folder: Path, part: str, references: dict[str, str]) -> dict[str, Any]:
    """The node of an encoder whose files travel in the export; large ones are referred to by path and digest."""
    for key, place in FOLDERS.items():
        if node.get(key):
            source = local_folder(node[key], key)
            target = part if place is None else place if part == "text_encoder" else f"{part}_{place}"
            node = {**node, key: _carry_folder(source, folder / target, references)}
    inner = {
        key: carry(value, folder, key, references) for key, value in node.items() if isinstance(value, dict)
    }
    return {**node, **inner}


def _carry_folder(source: Path, target: Path, references: dict[str, str]) -> str:
    source = source.resolve()
    if sum(file.stat().st_size for file in source.rglob("*") if file.is_file()) > CARRY_BYTES:
        references[str(source)] = folder_digest(source)
        return str(source)
    shutil.copytree(source, target, dirs_exist_ok=True)
    return f"./{target.name}"


def check_references(references: dict[str, str], path: str | Path) -> None:
    for name, digest in references.items():
        if folder_digest(Path(name)) != digest:
            raise ValueError(f"init_from={path} refers to {name}, which has changed since the export")


def absolute(node: object, folder: Path) -> Any:
    """Paths that a manifest writes as `./name` become folders of this export."""
    if isinstance(node, dict):
        return {key: absolute(value, folder) for key, value in node.items()}
    if isinstance(node, list):
        return [absolute(value, folder) for value in node]
    return str(folder / node[2:]) if isinstance(node, str) and node.startswith("./") else node
