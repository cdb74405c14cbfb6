"""The tables of docs/personalisation.md: ways to teach one finished model the subject of the synthetic data set.

    python benchmarks/personalisation.py BASE [--steps 400 | --minutes M] [--all | --only ROW ...] [--threads 2]
                                              [--measure eval.x=... ...] [--out outputs/personalisation]
    python benchmarks/personalisation.py --list

BASE is the run or export folder of a model on the synthetic data set that is told the words of a caption, such as
recipe=base continued on data=scenes data.subset=teddy. One run after the other, each for --steps (or for --minutes,
after a short timing), all measured before and after on the same prompts and noise; the class's images are drawn once.
A run that is done is not run again, one that was stopped goes on. Prints a Markdown table: shares in percent with
95 % intervals, and the changes of what should stay. "Of the base's bears" is the score of the subject's prompts over
the base's own of the same contexts with a bear in words.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import launch
from tables import PROBE_EVERY, PROBE_STEPS, pace, positive

from t2ilab.eval.compare import compare
from t2ilab.eval.result import Evaluation, Metric

PLAN = ("eval=quick", "eval.prompts_per_task=150", "eval.compose_per_task=0", "eval.reference_images=0")
IN_CONTEXT = (  # of the class: what the base can do with it, which its images are to keep
    *("a teddy bear", "a red teddy bear on a white background", "two teddy bears", "three blue teddy bears"),
    *("a yellow teddy bear and a blue star", "a pink heart and a green teddy bear"),
    *("a purple teddy bear and an orange heart", "an orange teddy bear and a purple triangle"),
    *("a green teddy bear above a red circle", "a small blue teddy bear to the left of a green square"),
    *("a yellow ring and a cyan teddy bear", "a red star above a pink teddy bear"),
)
PRIOR = ("stage.class_images=300", f"stage.class_prompts=[{','.join(IN_CONTEXT)}]")
TIMES = "timestep.shift=1"  # for details, less of the layout of five images
LITTLE = ("eval=quick", "eval.prompts_per_task=1", "eval.compose_per_task=0", "eval.heldout_images=0")
QUIET = ("stage.preview_every=100000", "checkpoint.every=100")
INVERSION = "textual inversion"
SLOWER = "stage.word_lr=1e-3"  # of a word that has been learned: a fifth, as in cloneofsimo's pivotal tuning
FASTER = "optimizer.lr=5e-4"
FACTORS = "optimizer.lr=1e-3"  # of factors, which are few: five times the rate of whole matrices


@dataclass(frozen=True)
class Row:
    """A way to teach the subject.

    Attributes:
        own: its overrides.
        of: the row that it starts from; None for the base.
    """

    own: Sequence[str] = ()
    of: str | None = None


ROWS = {
    "dreambooth": Row(),
    "dreambooth without prior": Row(["loss.prior_weight=0"]),
    INVERSION: Row(["loss=textual_inversion"]),
    "pivotal, dreambooth": Row([SLOWER], of=INVERSION),
    "pivotal, faster": Row([SLOWER, FASTER], of=INVERSION),
    "pivotal, faster, without prior": Row([SLOWER, FASTER, "loss.prior_weight=0"], of=INVERSION),
    "pivotal, lora": Row(["adapter=lora", "adapter.targets=all", FACTORS, SLOWER], of=INVERSION),
    "lora": Row(["adapter=lora", FACTORS]),
    "lora without prior": Row(["adapter=lora", FACTORS, "loss.prior_weight=0"]),
}
FURTHER = {
    "dreambooth with text encoder": Row(["stage.text_lr=1e-5"]),
    "textual inversion, 4 vectors": Row(["loss=textual_inversion", "loss.vectors=4"]),
    "rslora": Row(["adapter=rslora", "optimizer.lr=3e-4"]),  # its scale is four times as large at rank 16
    "dora": Row(["adapter=dora", FACTORS]),
    "pissa": Row(["adapter=pissa", "optimizer.lr=2e-4"]),  # which begins inside the weights
    "loha": Row(["adapter=loha", FACTORS]),
    "lokr": Row(["adapter=lokr", FACTORS]),
}
SHARES = {  # heading to metric
    "subject, %": "subject/overall",
    "mark, %": "personal/mark",
    "context, %": "personal/context",
    "leak, %": "personal/leak",
    "leak in words, %": "personal/leak_described",
}
CHANGES = {
    "other bears": "teddy/overall",
    "class loss": "loss/heldout_class",
    "diversity": "personal/diversity",
}


class Runs:
    """The runs of a table, one after the other.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.rows, self.plan = args, ROWS | FURTHER, (*PLAN, *args.measure)

    def folder(self, name: str) -> Path:
        """Where a run lies."""
        path: Path = self.args.out / name.replace(", ", "-").replace(" ", "_")
        return path

    def run(self, name: str, *overrides: str) -> Path:
        """One run through the command line; returns its folder.

        Raises:
            ValueError: the folder holds a run by another command.
        """
        own = ["stage=personalize", TIMES, *QUIET, *overrides, f"trainer.threads={self.args.threads}"]
        return launch(self.folder(name), own, done="finished.json", threads=self.args.threads)

    def taught(self, name: str) -> Path:
        """The folder of a row; trains it, and what it starts from first."""
        row = self.rows[name]
        start = self.args.base if row.of is None else self.taught(row.of)
        own = [f"init_from={start}", *row.own]
        if "loss=textual_inversion" not in own and "loss.prior_weight=0" not in own:
            drawn = "class_images" if row.of is None else f"class_images_of_{self.folder(row.of).name}"
            own += [*PRIOR, f"stage.class_folder={self.args.out / drawn}"]  # once for all rows of one start
        steps = self.args.steps or self.steps_in(name, own)
        return self.run(name, *own, *self.plan, f"trainer.max_steps={steps}")

    def steps_in(self, name: str, own: Sequence[str]) -> int:
        """How many steps a row makes in the minutes of the table, from a short run."""
        short = [*LITTLE, f"logger.every={PROBE_EVERY}", f"trainer.max_steps={PROBE_STEPS}"]
        folder = self.run(f"timing/{name}", *own, *short)
        with (folder / "metrics.csv").open() as file:
            seconds = [0.0, *(float(row["train/seconds"]) for row in csv.DictReader(file))]
        return max(20, round(self.args.minutes * 60 / pace(seconds) / 20) * 20)


def share(metric: Metric | None) -> str:
    """A share in percent with its interval; a dash for none."""
    if metric is None:
        return "-"
    ends = "" if metric.low is None else f" ({100 * metric.low:.1f} .. {100 * (metric.high or 0):.1f})"
    return f"{100 * metric.value:.1f}{ends}"


def change(before: Evaluation, after: Evaluation, key: str) -> str:
    """The paired difference of a metric with its interval, shares in points; a dash for none."""
    found = [one.difference for one in compare(before, after) if one.key == key]
    if not found:
        return "-"
    (one,), factor = found, 100 if found[0].unit == "share" else 1
    digits = 1 if factor == 100 else 4
    low, high = ((end or 0) * factor for end in (one.low, one.high))
    return f"{factor * one.value:+.{digits}f} ({low:+.{digits}f} .. {high:+.{digits}f})"


def of_bears(base: Evaluation, after: Evaluation) -> str:
    """The score of the subject's prompts in percent of what the base makes of them in words."""
    whole, own = base.get("described/overall"), after.get("subject/overall")
    return "-" if not (whole and own and whole.value) else f"{100 * own.value / whole.value:.1f}"


def line(name: str, base: Evaluation, after: Evaluation, more: Sequence[str]) -> str:
    """A row of the table.

    Args:
        base: the model that all rows go back to.
    """
    cells = [share(after.get(key)) for key in SHARES.values()]
    cells.insert(1, of_bears(base, after))
    cells += [change(base, after, key) for key in CHANGES.values()]
    similar = after.get("personal/similarity")
    cells.append(f"{similar.value:.3f}" if similar else "-")
    return f"| {name} | " + " | ".join([*cells, *more]) + " |"


def facts(folder: Path) -> list[str]:
    """How many weights trained and their share, milliseconds of a step, and steps."""
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    weights, steps = manifest["weights"], manifest["steps"]
    trained = f"{weights['trained']:,} ({weights['trained'] / weights['all']:.2%})"
    return [trained, f"{1000 * manifest['seconds'] / steps:.0f}", str(steps)]


def report(args: argparse.Namespace) -> None:
    """Makes what is not there yet, and prints the table line by line."""
    runs = Runs(args)
    names = args.only or [*ROWS, *(FURTHER if args.all else ())]
    first = names[0]
    while (of := runs.rows[first].of) is not None:
        first = of
    headings = ["", *SHARES, *CHANGES, "similarity", "trained weights", "ms a step", "steps"]
    headings.insert(2, "of the base's bears, %")
    print("| " + " | ".join(headings) + " |\n|---|" + "---|" * (len(headings) - 1), flush=True)
    runs.taught(first)
    base = Evaluation.load(runs.folder(first) / "before.json")
    print(
        line(
            "base, untrained word" if first != INVERSION else "base, the class's word", base, base, ["-"] * 3
        )
    )
    for name in names:
        folder = runs.taught(name)
        after = Evaluation.load(folder / "evaluation.json")
        print(line(name, base, after, facts(folder)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", nargs="?", type=Path, help="run or export folder")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--all", action="store_true", help="with the other kinds of adapters and variants")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--steps", type=positive, help="of every row; 400 unless --minutes is given")
    parser.add_argument("--minutes", type=float, help="of training, of every row")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--measure", nargs="*", default=(), help="other options of the measurement, eval.x=..."
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/personalisation"))
    args = parser.parse_args()
    if args.list or args.base is None:
        for name, row in (ROWS | FURTHER).items():
            print(f"{name:30s} {' '.join(row.own)}" + (f", starts from {row.of}" if row.of else ""))
        return
    unknown = set(args.only or ()) - set(ROWS | FURTHER)
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)}; there are: {'; '.join(ROWS | FURTHER)}")
    args.steps = args.steps or (None if args.minutes else 400)
    args.out, args.base = args.out.resolve(), args.base.resolve()
    report(args)


if __name__ == "__main__":
    main()
