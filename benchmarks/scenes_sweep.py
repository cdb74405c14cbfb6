"""What buys quality on the embedded world at equal training time: one row per change to the default run.

    python benchmarks/scenes_sweep.py [--minutes 4] [--threads 2] [--only NAME ...] [--out outputs/sweep]

Every setting is first timed for a few steps, then trained for as many steps as fit into the minutes, with the same
seed and data, and measured with the same prompts. Prints a Markdown table; a setting that is done is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

SETTINGS: dict[str, list[str]] = {
    "default": [],
    "dit_tiny": ["model=dit_tiny"],
    "adamw instead of muon": ["optimizer=adamw"],
    "word vectors instead of the embedded CLIP": ["conditioner=random"],
    "time added before the norms": ["model.adaptive_norm=false"],
    "no time shift": ["timestep.shift=1"],
    "time shift 2": ["timestep.shift=2"],
    "uniform times": ["timestep=uniform"],
    "batch 128": ["data.batch_size=128"],
    "wider": ["model.widths=[96,160]"],
    "coarse attention only": ["model.attention=[false,true]"],
    "long captions only": ["data.caption_kinds=[long]"],
    "half the resolution first": ["curriculum=resolution"],
    "short captions first": ["curriculum=captions"],
    "guidance 3": ["guidance.scale=3"],
    "longer EMA": ["ema.decay=0.999"],
    "objects anywhere": ["data.jitter=4"],
}
PROBE_STEPS, PROBE_EVERY = 40, 10


def run(name: str, overrides: list[str], *, steps: int, folder: Path, threads: int, probe: bool) -> Path:
    """One training run through the command line; returns its folder."""
    run_dir = folder / name.replace(" ", "_") / ("probe" if probe else "run")
    if not (run_dir / "evaluation.json").exists():
        small = (
            ["eval.prompts_per_task=1", "eval.heldout_images=0", "eval.reference_images=0"] if probe else []
        )
        command = [
            sys.executable,
            "-m",
            "t2ilab",
            *overrides,
            f"run_dir={run_dir}",
            f"trainer.max_steps={steps}",
        ]
        command += ["eval=quick" if probe else "eval=standard", "eval.nfe_steps=[]", *small]
        command += ["stage.preview_every=100000"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with (folder / f"{run_dir.parent.name}.log").open("a") as log:
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return run_dir


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def measure(name: str, overrides: list[str], args: argparse.Namespace) -> str:
    """Times, trains and reads one setting; returns its row of the table."""
    settings = {"folder": args.out, "threads": args.threads}
    probe = [*overrides, f"logger.every={PROBE_EVERY}"]
    rows = rows_of(run(name, probe, steps=PROBE_STEPS, probe=True, **settings))
    seconds = [float(now["train/seconds"]) - float(then["train/seconds"]) for then, now in pairwise(rows)]
    steps = int(args.minutes * 60 / (min(seconds) / PROBE_EVERY)) // 25 * 25
    run_dir = run(name, overrides, steps=steps, probe=False, **settings)
    found = json.loads((run_dir / "evaluation.json").read_text())
    last = rows_of(run_dir)[-1]
    cells = [name, str(steps), f"{float(last['train/seconds']) / 60:.1f}"]
    for key in ("judge/overall", "judge/single_object", "judge/color_attribution", "compose/overall"):
        metric = found[key]
        cells.append(f"{100 * metric['value']:.1f} ({100 * metric['low']:.0f}-{100 * metric['high']:.0f})")
    cells.append(f"{found['loss/heldout']['value']:.3f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("outputs/sweep"))
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    print(
        "| setting | steps | minutes | overall % | single object | colour attribution | compose | held-out loss |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, overrides in SETTINGS.items():
        if args.only is None or name in args.only:
            print(measure(name, overrides, args), flush=True)


if __name__ == "__main__":
    main()
