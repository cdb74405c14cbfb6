"""What each step of a chain runs, and by what one knows that it need not run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from t2ilab.build import Config
from t2ilab.config.composition import NAMED, check, checked, composed
from t2ilab.config.explain import explain
from t2ilab.config.groups import all_groups, key_of
from t2ilab.config.overrides import as_typed
from t2ilab.data.cache import digest_of
from t2ilab.export.manifest import MANIFEST, file_digest, package_digest

PLACES = ("run_dir", "command")  # where a run is and how it was typed: the same run elsewhere


@dataclass(frozen=True)
class Step:
    """One run of a chain.

    Attributes:
        name: of the step and of its folder.
        folder: its run folder.
        parents: run folders that it starts from, by the option that names them.
        overrides: its command line, but for the folders.
    """

    name: str
    folder: Path
    parents: Mapping[str, Path]
    overrides: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The whole command line, as one types it."""
        places = {"run_dir": self.folder, **self.parents}
        return [*self.overrides, *(f"{option}={path}" for option, path in places.items())]

    def config(self) -> dict[str, Any]:
        """The checked config of the run.

        Raises:
            ValueError: what is wrong with it, naming the step.
        """
        try:
            return checked(as_typed(self.command, sweep=False))
        except (HydraException, ValueError) as error:
            said = explain(error, self.command) if isinstance(error, HydraException) else error
            raise ValueError(f"step {self.name}: {said}") from error

    def identity(self) -> dict[str, Any]:
        """What the result of the step depends on: config, parents, package; folders do not count, digests do."""
        config = {key: value for key, value in self.config().items() if key not in (*PLACES, *self.parents)}
        parents = {option: export_digest(folder) for option, folder in self.parents.items()}
        return {"config": digest_of(config), "parents": parents, "package": package_digest()}


def planned(config: Config) -> list[Step]:
    """The steps of a chain, each with those of the user's options that it reads.

    Raises:
        ValueError: an option that no step reads, or a step that is not there.
    """
    steps, root = config["stage"]["steps"], Path(config["run_dir"])
    own = config.get("chain") or {}
    if unknown := set(own) - set(steps):
        raise ValueError(f"chain.{min(unknown)}: the steps of this chain are {', '.join(steps)}")
    given = list(config["stage"].get("overrides") or [])
    found, read = [], set()
    for name, step in steps.items():
        base = list(step.get("overrides") or [])
        kept = reads(base, given)
        read |= set(kept)
        parents = {option: root / parent for option, parent in (step.get("parents") or {}).items()}
        found.append(Step(name, root / name, parents, (*base, *kept, *(own.get(name) or []))))
    for item in given:
        if item not in read:
            raise ValueError(_unread(item, next(iter(steps.values())).get("overrides") or []))
    return found


def reads(base: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those of the given overrides that the stage of the command line `base` reads."""
    stage = composed(base).stage
    used = {"stage", *stage.uses, *stage.get("optional", [])}
    used |= {"debug"} if "optimizer" in used else set()
    asked = [item for item in given if _group(item) in used or _group(item) not in (*all_groups(), *NAMED)]
    try:
        composed([*base, *asked])
    except HydraException:
        return _one_by_one(base, asked)
    return asked


def _one_by_one(base: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those that compose with the ones before them; choices of groups come first, they bring options along."""
    kept: list[str] = []
    for item in sorted(given, key=lambda item: "." in key_of(item)):
        try:
            composed([*base, *kept, item])
        except HydraException:
            continue
        kept.append(item)
    return [item for item in given if item in kept]


def _group(override: str) -> str:
    """The group or setting that an override is about; that of the owner for a part, `shift@timestep.shift=flux`."""
    first, at, place = key_of(override).partition("@")
    return (place if at else first).split(".")[0]


def _unread(item: str, base: Sequence[str]) -> str:
    """Why no step reads an option: it does not exist, or all their stages leave it out."""
    try:
        check(composed([*base, item]))
    except HydraException as error:
        return explain(error, [*base, item])
    except ValueError:
        pass  # the sentence below says it for all steps
    return f"{item}: no step of this chain reads it"


def export_digest(folder: Path) -> str | None:
    """sha256 of the manifest of a run's export, which holds those of all its files; None while there is none."""
    path = folder / "export" / MANIFEST
    return file_digest(path) if path.is_file() else None
