"""The table of docs/life-cycle.md: one base, continued on bears with and without replay, then fine-tuned.

    python benchmarks/life_cycle.py BASE [--seeds 0 1 2] [--jobs 2] [--threads 1] [--only ROW ...]
                                         [--options timestep.shift=4 ...] [--measure eval.x=... ...]
                                         [--out outputs/life_cycle]

BASE: run folder of a model on the synthetic data set. Rows that a claim rests on are trained from each seed, others
from the first; fine-tuning starts from the first continued model. All are measured before and after on the same
prompts and noise, and what two runs start from is measured once. A run that is done is not run again, one that was
stopped goes on. `--jobs 2 --threads 1` is for two cores.

Prints a Markdown table: before -> after, and the difference with its 95 % interval. Over several seeds after and
difference are means, the interval is a bootstrap over the prompts, each compared with itself by the mean of its
seeds, and the differences of the single seeds stand behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from launch import launch
from tables import positive, trained

from t2ilab.eval.compare import outcomes_of
from t2ilab.eval.intervals import paired_bootstrap
from t2ilab.eval.result import Evaluation
from t2ilab.runs.record import FINISHED

PLAN = ("eval=full", "eval.nfe_steps=[]", "eval.reference_images=1000", "stage.preview_every=100000")
BEARS = ("stage=continue", "data.subset=teddy")
CAREFUL = ("stage.replay=0.5", "optimizer=muon", "optimizer.lr=0.004", "trainer.max_steps=800")
CONTINUED = "continue on bears"


@dataclass(frozen=True)
class Row:
    """A stage.

    Attributes:
        own: its overrides; of: the row that it starts from, None for the base.
        claimed: whether it is trained from every seed.
    """

    own: Sequence[str]
    of: str | None = None
    claimed: bool = False


ROWS = {
    "rate 0": Row([*BEARS, "optimizer.lr=0", "trainer.max_steps=20"]),
    CONTINUED: Row([*BEARS, *CAREFUL], claimed=True),
    "AdamW as long": Row([*BEARS, "stage.replay=0.5", "trainer.max_steps=800"]),
    "600 steps, replay 0.25": Row(BEARS, claimed=True),
    "600 steps without replay": Row([*BEARS, "stage.replay=0"]),
    "sft on curated images": Row(["stage=sft"], of=CONTINUED, claimed=True),
}
SHOWN = {  # heading -> metric of evaluation.json
    "old prompts, %": "judge/overall",
    "unseen combinations, %": "compose/overall",
    "bears, %": "teddy/overall",
    "style": "style",
    "loss on the old data": "loss/heldout_old",
    "diversity": "diversity",
}


class Runs:
    """The runs of the table.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def folder(self, name: str, seed: int) -> Path:
        """Of a row trained from a seed."""
        return Path(self.args.out) / name.replace(" ", "_") / f"seed{seed}"

    def train(self, name: str, seed: int) -> Path:
        """One run; what it starts from is measured by it, unless a run from the same model has done so."""
        folder, row = self.folder(name, seed), ROWS[name]
        parent = self.args.base if row.of is None else self.folder(row.of, self.args.seeds[0])
        threads = self.args.threads
        own = [*row.own, f"init_from={parent}", f"seed={seed}", *self.args.options, *PLAN, *self.args.measure]
        return launch(folder, [*own, f"trainer.threads={threads}"], done=FINISHED, threads=threads)

    def all(self) -> dict[str, list[Path]]:
        """Makes every run that is not there yet; folders by row, one for each seed."""
        names = self.args.only
        wanted = {name: self.args.seeds[: None if ROWS[name].claimed else 1] for name in names}
        for of in dict.fromkeys(ROWS[name].of for name in names):
            rows = [name for name in names if ROWS[name].of == of]
            runs = [(name, seed) for seed in self.args.seeds for name in rows if seed in wanted[name]]
            with ThreadPoolExecutor(self.args.jobs) as pool:
                list(pool.map(lambda run: self.train(*run), runs))
        return {name: [self.folder(name, seed) for seed in wanted[name]] for name in names}


def cell(before: Evaluation, after: Sequence[Evaluation], key: str) -> str:
    """`79.2 -> 77.7: -1.5 (-4.8 .. 2.0)`, shares in percent, and the differences of several seeds."""
    if key not in before or any(key not in one for one in after):
        return "-"
    factor, digits = (100, 1) if before[key].unit == "share" else (1, 3)
    old, new = before[key].value, [one[key].value for one in after]
    mean = sum(new) / len(new)
    text = f"{factor * old:.{digits}f} -> {factor * mean:.{digits}f}: {factor * (mean - old):+.{digits}f}"
    units = [outcomes_of(one, key) for one in (before, *after)]
    if (first := units[0]) is not None and all(one is not None for one in units):
        together = np.mean([one.values for one in units[1:] if one is not None], axis=0)
        found = paired_bootstrap(first.values, together, first.groups)
        text += f" ({factor * found.low:.{digits}f} .. {factor * found.high:.{digits}f})"
    if len(new) > 1:
        text += " [" + ", ".join(f"{factor * (one - old):+.{digits}f}" for one in new) + "]"
    return text


def table(rows: Mapping[str, Sequence[Path]]) -> list[str]:
    """The lines of the table."""
    headings = ["stage", *SHOWN, "steps, minutes of training"]
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---|" * (len(headings) - 1)]
    for name, folders in rows.items():
        before = Evaluation.load(folders[0] / "before.json")
        after = [Evaluation.load(folder / "evaluation.json") for folder in folders]
        last = trained(folders[0])
        cost = f"{int(last['step'])}, {last['train/seconds'] / 60:.1f}"
        lines.append(
            "| " + " | ".join([name, *(cell(before, after, key) for key in SHOWN.values()), cost]) + " |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, help="run folder of a model on the synthetic data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time")
    parser.add_argument("--threads", type=positive, default=1, help="of each run")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--options", nargs="*", default=[], help="further options of every run")
    parser.add_argument(
        "--measure", nargs="*", default=[], help="further options of the measurement, eval.x=..."
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/life_cycle"))
    args = parser.parse_args()
    if any(ROWS[name].of not in (None, *args.only) for name in args.only):
        parser.error(f"--only: fine-tuning starts from the row {CONTINUED!r}, name it too")
    args.out, args.base = args.out.resolve(), args.base.resolve()
    print("\n".join(table(Runs(args).all())))


if __name__ == "__main__":
    main()
