"""Averaged weights that a run keeps on its way: safetensors files in its folder `averages/`.

Each says in its header at which step it was taken, and with which width if it is one of ema=power. They are
written whole or not at all, and are a function of the run: one that goes on from an earlier step writes the same
files again. From those with a width any other width can be made afterwards (core/posthoc.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from t2ilab.core.posthoc import Profile, order_of, shares

EARLY = "early.safetensors"
POSTHOC = "posthoc:"
WORST_FIT = 0.1  # relative error of a profile beyond which the average would be another one


def write(path: Path, weights: dict[str, Tensor], *, step: int, **notes: float) -> None:
    """Writes one snapshot with its step, and further numbers, in the header.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    notes_text = json.dumps({"step": step, **notes})  # one entry: the order of several would be random
    try:
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_file(on_cpu, temporary, metadata={"t2ilab": notes_text})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"could not save {path.name}: {error}. Make room and give the same command again to go on"
        ) from error


def header(path: Path) -> dict[str, float]:
    """The numbers that were noted of a snapshot, none of a file of another kind.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("t2ilab", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def step_of(path: Path) -> int:
    """The optimizer step of a snapshot."""
    return int(header(path)["step"])


def set_later_aside(folder: Path, step: int) -> None:
    """Renames what a run that goes on from `step` has not reached yet to `<name>.earlier`, so that nothing reads it.

    Files that are no snapshots stay as they are; half-written ones are written again.

    Raises:
        ValueError: a snapshot is damaged.
    """
    for path in folder.glob("*.safetensors"):
        if header(path).get("step", 0) > step:
            path.replace(path.with_name(f"{path.name}.earlier"))


def posthoc_width(weights: str) -> float | None:
    """sigma_rel of `posthoc:<sigma_rel>`; None for `ema` and `raw`.

    Raises:
        ValueError: it is neither, or the width is impossible.
    """
    if weights in ("ema", "raw"):
        return None
    text = weights.removeprefix(POSTHOC)
    try:
        if text == weights:
            raise ValueError("no such weights")
        order_of(float(text))
    except ValueError as error:
        raise ValueError(
            f"stage.weights must be ema, raw or posthoc:<sigma_rel> such as posthoc:0.07, got {weights} ({error})"
        ) from error
    return float(text)


@torch.no_grad()
def load_posthoc(network: nn.Module, folder: Path, sigma_rel: float, *, step: int) -> float:
    """Loads the average of width `sigma_rel` at `step` from the snapshots in `folder`; buffers are the newest.

    Returns:
        The relative error of the profile.

    Raises:
        ValueError: there are no such snapshots, or they cannot make that width.
    """
    name = f"stage.weights={POSTHOC}{sigma_rel:g}"
    stored = _stored(folder, step)
    if not any(profile.step == step for profile in stored.values()):
        raise ValueError(
            f"{name} needs the snapshots of ema=power in {folder}, up to step {step} where the export was made: "
            "give init_from=<the run's own folder>"
        )
    x, error = shares(list(stored.values()), Profile(order_of(sigma_rel), step))
    if error > WORST_FIT:
        raise ValueError(
            f"{name}: the snapshots in {folder} make this width with an error of {error:.0%} only; "
            "stay near the widths of ema.sigma_rel, or train with a smaller ema.every"
        )
    network.load_state_dict(_sum(dict(zip(stored, x.tolist(), strict=True)), network))
    return error


def _stored(folder: Path, step: int) -> dict[Path, Profile]:
    """The snapshots with a width up to `step`, oldest first."""
    notes = {path: header(path) for path in sorted(folder.glob("step_*.safetensors"))}
    profiles = {path: Profile(order_of(note["sigma_rel"]), int(note["step"])) for path, note in notes.items()}
    return {path: profile for path, profile in profiles.items() if profile.step <= step}


def _sum(shares_of: dict[Path, float], network: nn.Module) -> dict[str, Tensor]:
    """sum_i x_i file_i of the parameters of `network`, in float64; all else as in the last file."""
    from safetensors import safe_open

    parameters = dict(network.named_parameters(remove_duplicate=False))
    total: dict[str, Tensor] = {}
    for path, share in shares_of.items():
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                value = file.get_tensor(name)
                total[name] = value if name not in parameters else total.get(name, 0) + share * value.double()
    return total
