"""The tables of docs/results.md: one choice changed in the default run on the synthetic data set, over several seeds.

    python benchmarks/tables.py TABLE [--seeds 0 1 2] [--jobs 2] [--only SETTING ...] [--steps N] [--out DIR]
    python benchmarks/tables.py --list

Every setting is trained from each seed, for equally many steps or for equally long (then it is timed first, alone),
and measured with the same prompts. A run that is done is not run again, one that was stopped goes on. Prints a
Markdown table: means over the seeds with 95 % intervals (Student's t), and the difference from the first setting,
seed by seed. Tables that measure on the way also say how many times fewer steps a setting takes than its baseline,
to the highest score that both reach. `--jobs 2` is for two cores: every run takes one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from curves import Curve, curve, ratios
from launch import launch
from settings import TABLES, Table

MEASURED = ("eval=quick", "eval.prompts_per_task=24", "eval.heldout_images=256", "eval.caption_prompts=0")
QUIET = ("stage.preview_every=100000", "checkpoint.every=100")
PROBE_STEPS, PROBE_EVERY = 40, 10  # of the timing before runs of equal time
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t by number of seeds


def train(run_dir: Path, overrides: Sequence[str], steps: int) -> Path:
    """One run of training; returns its folder."""
    return run(run_dir, [*QUIET, *overrides], f"trainer.max_steps={steps}")


def run(run_dir: Path, overrides: Sequence[str], *last: str) -> Path:
    """One run through the command line, on one thread; returns its folder.

    Raises:
        ValueError: the folder holds a run by another command.
    """
    own = [*MEASURED, *overrides, *last, "trainer.threads=1"]
    return launch(run_dir, own, done="evaluation.json", threads=1)


def steps_in(minutes: float, folder: Path, overrides: Sequence[str]) -> int:
    """How many steps a setting makes in so many minutes, from a short run."""
    short = ["eval.prompts_per_task=1", "eval.heldout_images=0", f"logger.every={PROBE_EVERY}"]
    run_dir = train(folder / "timing", [*overrides, *short], PROBE_STEPS)
    with (run_dir / "metrics.csv").open() as file:
        seconds = [0.0, *(float(row["train/seconds"]) for row in csv.DictReader(file))]
    return round(minutes * 60 / pace(seconds) / 20) * 20


def pace(seconds: Sequence[float]) -> float:
    """Seconds per step, from the time at the start and after every so many steps of the timing.

    The fastest part of each half: what else the machine does does not count, and two phases of a curriculum do.
    """
    parts = [after - before for before, after in pairwise(seconds)]
    middle = len(parts) // 2
    return (min(parts[:middle]) + min(parts[middle:])) / 2 / PROBE_EVERY


def drawn(run_dir: Path, own: Sequence[str], samplers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The score of a finished run with each sampler, which takes over the run's own options of `sampler`."""
    kept = [option for option in own if option.startswith("sampler.")]
    scores = {}
    for name, sampler in samplers.items():
        folder = run_dir / "drawn" / name.replace(", ", "-").replace(" ", "_")
        run(folder, ["stage=evaluate", f"init_from={run_dir}", *kept, *sampler])
        scores[name] = values(json.loads((folder / "evaluation.json").read_text()))["judge/overall"]
    return scores


@dataclass(frozen=True)
class Setting:
    """What came out of one setting: metrics, scores on the way and with further samplers, of each seed."""

    name: str
    steps: int
    metrics: list[dict[str, float]]
    curves: list[Curve]
    drawn: list[dict[str, float]]


def measured(table: Table, args: argparse.Namespace) -> Iterator[Setting]:
    """All settings in their order; timings first, then all runs, `jobs` at a time."""
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
                pool.submit(one_seed, table, folders[name] / f"seed{seed}", own, seed, steps[name])
                for seed in args.seeds
            ]
            for name, own in chosen.items()
        }
        for name, waiting in runs.items():
            done, scores = zip(*(run.result() for run in waiting), strict=True)
            found = [json.loads((folder / "evaluation.json").read_text()) for folder in done]
            metrics = [values(one) | trained(folder) for one, folder in zip(found, done, strict=True)]
            yield Setting(name, steps[name], metrics, [curve(one) for one in done], list(scores))


def one_seed(
    table: Table, run_dir: Path, own: Sequence[str], seed: int, steps: int
) -> tuple[Path, dict[str, float]]:
    """Trains one setting from one seed; its folder, and its scores with the table's further samplers."""
    train(run_dir, [*own, f"seed={seed}", f"stage.evaluate_every={table.every}"], steps)
    return run_dir, drawn(run_dir, own, table.samplers)


def saved(own: Sequence[Curve], baseline: Sequence[Curve]) -> str:
    """The cell of `ratios`; a dash where a seed has none."""
    found = ratios(own, baseline)
    return "-" if any(map(math.isnan, found)) else shown(found, False) + " x"


def by_sampler(setting: Setting) -> list[str]:
    """The cells of the further samplers, then which has the highest mean over the seeds, the run's own among them."""
    scores = {name: [one[name] for one in setting.drawn] for name in setting.drawn[0]}
    cells = [shown(values, True) for values in scores.values()]
    scores["its own"] = [one["judge/overall"] for one in setting.metrics]
    return [*cells, max(scores, key=lambda name: statistics.fmean(scores[name]))]


def values(evaluation: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of an evaluation.json, which also says under "meta" how they were measured."""
    return {key: metric["value"] for key, metric in evaluation.items() if key != "meta"}


def trained(run_dir: Path) -> dict[str, float]:
    """The last row of metrics.csv."""
    with (run_dir / "metrics.csv").open() as file:
        return {key: float(value) for key, value in [*csv.DictReader(file)][-1].items() if value}


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
    parser.add_argument("--steps", type=positive, help="instead of the table's own")
    parser.add_argument("--out", type=Path, default=Path("outputs/tables"))
    args = parser.parse_args()
    if args.list or args.table is None:
        for name, table in TABLES.items():
            print(f"{name:12s} {table.question}: {'; '.join(table.settings)}")
        return
    unknown = set(args.only or ()) - set(TABLES[args.table].settings)
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)}; there are: {'; '.join(TABLES[args.table].settings)}")
    if len(args.seeds) > max(T95):
        parser.error(f"--seeds: at most {max(T95)}")
    args.out = args.out.resolve()
    report(TABLES[args.table], args)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def report(table: Table, args: argparse.Namespace) -> None:
    """Trains what is not trained yet, and prints the table line by line."""
    columns, done = table.columns, dict[str, Setting]()
    headings = ["setting", "steps", *columns, "difference", *["steps saved"] * bool(table.baselines)]
    headings += [*table.samplers, "best"] if table.samplers else []
    print(f"{table.question}; seeds {', '.join(map(str, args.seeds))}\n")
    print("| " + " | ".join(headings) + " |")
    print("|---|" + "---|" * (len(headings) - 1))
    for setting in measured(table, args):
        done[setting.name] = setting
        base = next(iter(done.values()))
        cells = [
            shown([one[key] for one in setting.metrics], key.startswith("judge"))
            if key in setting.metrics[0]
            else ""
            for key in columns.values()
        ]
        pairs = zip(setting.metrics, base.metrics, strict=True)
        gains = [one["judge/overall"] - reference["judge/overall"] for one, reference in pairs]
        cells.append("" if setting is base else shown(gains, True))
        if table.baselines:
            rival = done.get(table.baselines.get(setting.name, ""))
            cells.append(saved(setting.curves, rival.curves) if rival else "")
        if table.samplers:
            cells += by_sampler(setting)
        print(f"| {setting.name} | {setting.steps} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
