"""The tables of docs/results.md: what one choice does to the default run on the embedded world, over several seeds.

    python benchmarks/tables.py TABLE [--seeds 0 1 2] [--jobs 2] [--only SETTING ...] [--steps N] [--out DIR]
    python benchmarks/tables.py --list

Every setting is trained from each seed, for equally many steps or for equally long (then it is timed first, alone),
and measured with the same prompts. A run that is done is not run again, one that was stopped goes on. Prints a
Markdown table: means over the seeds with 95 % intervals (Student's t), and the difference from the first setting,
seed by seed. `--jobs 2` is for two cores: every run takes one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SCORES = {
    "all prompts": "judge/overall",
    "single object": "judge/single_object",
    "two objects": "judge/two_objects",
}
BINS = {
    f"loss t {low:.2f}-{low + 0.25:.2f}": f"loss/t{low:.2f}-{low + 0.25:.2f}" for low in (0, 0.25, 0.5, 0.75)
}
MEASURED = ("eval=quick", "eval.prompts_per_task=24", "eval.heldout_images=256", "eval.caption_prompts=0")
QUIET = ("stage.preview_every=100000", "checkpoint.every=100")
PROBE_STEPS, PROBE_EVERY = 40, 10  # of the timing before runs of equal time
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t by number of seeds


@dataclass(frozen=True)
class Table:
    """One question and its settings, the reference first.

    Attributes:
        steps: of every run; or
        minutes: on one thread, of every run.
        columns: heading to metric of evaluation.json; scores are shown in percent.
    """

    question: str
    settings: Mapping[str, Sequence[str]]
    steps: int | None = None
    minutes: float | None = None
    columns: Mapping[str, str] | None = None


DIFFUSION = ("loss=diffusion", "path=vp_cosine", "timestep=uniform", "timestep.shift=1")
START = "sampler.grid.start=0.999"  # eps says nothing about data at pure noise
TABLES = {
    "times": Table(
        "which times to train on, and which of them cost most",
        {
            "logit-normal, shift 2.2": [],
            "logit-normal, no shift": ["timestep.shift=1", "sampler.grid.shift=2.2"],
            "uniform, shift 2.2": ["timestep=uniform", "timestep.shift=2.2"],
            "uniform, no shift": ["timestep=uniform", "timestep.shift=1", "sampler.grid.shift=2.2"],
        },
        steps=300,
        columns=SCORES | BINS,
    ),
    "objectives": Table(
        "each view of the training with the sampler that suits it",
        {
            "flow matching, linear": [],
            "flow matching, trigonometric": ["path=trig"],
            "diffusion, v, VP cosine": [*DIFFUSION, "prediction=v", START],
            "diffusion, eps, VP cosine": [*DIFFUSION, "prediction=eps", START],
            "diffusion, x0, VP cosine": [
                *DIFFUSION,
                "prediction=x0",
                START,
                "weighting@loss.weighting=min_snr",
            ],
            "EDM": ["loss=diffusion", "path=ve", "prediction=edm", "timestep=log_normal", "sampler=edm"],
            "score matching, VP": ["loss=score_matching", "path=vp_cosine", "prediction=eps", START],
        },
        steps=300,
        columns=SCORES,
    ),
    "models": Table(
        "kinds of networks at about equal parameters and equal time",
        {
            name: [f"model={name}"]
            for name in ("unet_tiny", "dit_tiny", "mmdit_tiny", "pixart_tiny", "single_tiny")
        },
        minutes=6.0,
        columns=SCORES,
    ),
    "curriculum": Table(
        "half of the steps at half the resolution, at equal time",
        {"64 px": [], "32, then 64 px": ["curriculum=resolution"]},
        minutes=6.0,
        columns=SCORES,
    ),
    "repa": Table(
        "features of the embedded CLIP as a further target, in two sizes and at two depths",
        {
            "dit_nano": ["model=dit_nano"],
            "dit_nano, REPA": ["model=dit_nano", "terms=[repa]"],
            "dit_tiny": ["model=dit_tiny"],
            "dit_tiny, REPA": ["model=dit_tiny", "terms=[repa]"],
            "dit_tiny, REPA, later": ["model=dit_tiny", "terms=[repa]", "terms.repa.tap=block4"],
            "dit_tiny, REPA, stopped": ["model=dit_tiny", "terms=[repa]", "terms.repa.weight.stop=0.4"],
        },
        steps=400,
        columns=SCORES,
    ),
    "sweep": Table(
        "what buys quality at equal time",
        {
            "default": [],
            "adamw instead of muon": ["optimizer=adamw"],
            "time added before the norms": ["model.adaptive_norm=false"],
            "batch 32": ["data.batch_size=32"],
            "batch 128": ["data.batch_size=128"],
            "wider": ["model.widths=[96,160]"],
            "coarse attention only": ["model.attention=[false,true]"],
            "mostly long captions": [
                "+data.caption_weights={short: 0.2, sparse: 0, long: 0.6, paraphrase: 0.2}"
            ],
            "short captions first": ["curriculum=captions"],
            "REPA": ["terms=[repa]"],
        },
        minutes=6.0,
        columns=SCORES,
    ),
}


def train(run_dir: Path, overrides: Sequence[str], steps: int) -> Path:
    """One run through the command line, on one thread; returns its folder."""
    if not (run_dir / "evaluation.json").exists():
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "t2ilab", *MEASURED, *QUIET, *overrides]
        command += [f"run_dir={run_dir}", f"trainer.max_steps={steps}", "trainer.threads=1"]
        with run_dir.with_suffix(".log").open("a") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return run_dir


def steps_in(minutes: float, folder: Path, overrides: Sequence[str]) -> int:
    """How many steps a setting makes in so many minutes, from the fastest part of a short run."""
    short = ["eval.prompts_per_task=1", "eval.heldout_images=0", f"logger.every={PROBE_EVERY}"]
    run_dir = train(folder / "timing", [*overrides, *short], PROBE_STEPS)
    with (run_dir / "metrics.csv").open() as file:
        seconds = [float(row["train/seconds"]) for row in csv.DictReader(file)]
    fastest = min(after - before for before, after in pairwise(seconds))
    return round(minutes * 60 * PROBE_EVERY / fastest / 20) * 20


def measured(table: Table, args: argparse.Namespace) -> Iterator[tuple[str, int, list[dict[str, float]]]]:
    """(setting, steps, metrics of each seed); timings first, then all runs, `jobs` at a time."""
    chosen = {
        name: list(own) for name, own in table.settings.items() if args.only is None or name in args.only
    }
    folders = {name: args.out / args.table / name.replace(", ", "-").replace(" ", "_") for name in chosen}
    steps = {
        name: args.steps or table.steps or steps_in(table.minutes or 6.0, folders[name], own)
        for name, own in chosen.items()
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {
            name: [
                pool.submit(train, folders[name] / f"seed{seed}", [*own, f"seed={seed}"], steps[name])
                for seed in args.seeds
            ]
            for name, own in chosen.items()
        }
        for name, waiting in runs.items():
            found = [json.loads((run.result() / "evaluation.json").read_text()) for run in waiting]
            yield name, steps[name], [values(one) for one in found]


def values(evaluation: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of an evaluation.json, which also says under "meta" how they were measured."""
    return {key: metric["value"] for key, metric in evaluation.items() if key != "meta"}


def shown(numbers: Sequence[float], percent: bool) -> str:
    """Mean and half width of its 95 % interval."""
    factor, digits = (100, 1) if percent else (1, 3)
    text = f"{factor * statistics.fmean(numbers):.{digits}f}"
    if len(numbers) < 2:
        return text
    half = T95[len(numbers)] * statistics.stdev(numbers) / len(numbers) ** 0.5
    return f"{text} ± {factor * half:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--steps", type=int, help="instead of the table's own")
    parser.add_argument("--out", type=Path, default=Path("outputs/tables"))
    args = parser.parse_args()
    if args.list or args.table is None:
        for name, table in TABLES.items():
            print(f"{name:12s} {table.question}: {', '.join(table.settings)}")
        return
    args.out = args.out.resolve()
    table = TABLES[args.table]
    columns = table.columns or SCORES
    print(f"{table.question}; seeds {', '.join(map(str, args.seeds))}\n")
    print("| setting | steps | " + " | ".join(columns) + " | difference |")
    print("|---|---|" + "---|" * (len(columns) + 1))
    first: list[dict[str, float]] | None = None
    for name, steps, found in measured(table, args):
        first = first or found
        cells = [shown([one[key] for one in found], key.startswith("judge")) for key in columns.values()]
        pairs = zip(found, first, strict=True)
        difference = shown([one["judge/overall"] - base["judge/overall"] for one, base in pairs], True)
        print(
            f"| {name} | {steps} | " + " | ".join(cells) + f" | {'' if found is first else difference} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
