"""The tables of docs/distillation.md: students of one finished model, each trained for equally long.

    python benchmarks/distillation.py TEACHER [--minutes 4] [--all | --only ROW ...] [--steps N] [--rate 1e-3]
                                              [--threads 2] [--prompts 2000] [--copies 4] [--measure eval.x=... ...]
                                              [--out outputs/distillation]
    python benchmarks/distillation.py --list

TEACHER: run or export folder of a model on the synthetic data set. One run after the other: the teacher is measured
by itself and without noise on the way in 32 steps, what rows need is made before them (the pairs of noise and image
of reflow and InstaFlow), then each row is trained for --minutes on --threads cores (after a short timing; --steps
says the number instead) and measured with the same prompts. A run that is done is not run again, one that was stopped
goes on. Prints a Markdown table, shares in percent with 95 % intervals; "of the teacher" is the ratio to its score in
32 steps without noise, by prompt. Figures with all numbers of evaluations are in the report of every run.
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

PLAN = ("eval=quick", "eval.prompts_per_task=48", "eval.reference_images=200", "eval.nfe_per_task=16")
LITTLE = (*PLAN[:1], "eval.prompts_per_task=1", "eval.compose_per_task=0", "eval.heldout_images=0")
QUIET = ("stage.preview_every=100000", "checkpoint.every=100")
FINE = ("sampler=dpmpp_2m", "sampler.grid.steps=32")  # the teacher without noise on the way
EULER = ("sampler=euler", "sampler.grid.steps=16")  # of a reflowed model, whose export draws in one step


@dataclass(frozen=True)
class Row:
    """A student.

    Attributes:
        own: its overrides; an `optimizer.lr` among them goes before that of the table.
        steps: that it draws with, at which the teacher is measured beside it; 0 for those of its teacher.
        of: the row that it is a student of; None for the teacher.
        pairs: whether it learns from pairs of that model, and what these are drawn with beside the defaults.
    """

    own: Sequence[str]
    steps: int
    of: str | None = None
    pairs: Sequence[str] | None = None


ROWS = {
    "guidance, half the evaluations": Row(["loss=guidance"], 0),
    "progressive, 4 steps": Row(["loss=progressive", "loss.first=16", "loss.last=4"], 4),
    "lcm, 4 steps": Row(["loss=lcm", "loss.steps=4"], 4),
    "consistency, 2 steps": Row(["loss=consistency", "loss.steps=2"], 2),
    "reflow, 1 step": Row(["loss=reflow", "loss.steps=1"], 1, pairs=[]),
    "instaflow, 1 step": Row(["loss=instaflow"], 1, pairs=[]),
    "kd, half the network": Row(["loss=kd", "loss.keep=0.5"], 0),
}
FURTHER = {
    "guidance, then progressive, 4 steps": Row(
        ["loss=progressive", "loss.first=8", "loss.last=4", "optimizer.lr=1e-4"],
        4,
        of="guidance, half the evaluations",
    ),
    "progressive, 4 steps in one round": Row(["loss=progressive", "loss.first=4", "loss.last=4"], 4),
    "lcm, 4 steps, lora": Row(["loss=lcm", "loss.steps=4", "adapter=lora", "adapter.targets=all"], 4),
    "instaflow without the perceptual distance": Row(["loss=instaflow", "loss.warmup=1"], 1, pairs=[]),
    "reflow twice, 1 step": Row(["loss=reflow", "loss.steps=1"], 1, of="reflow, 1 step", pairs=EULER),
    "reflow, then instaflow, 1 step": Row(["loss=instaflow"], 1, of="reflow, 1 step", pairs=EULER),
}
DONE = {  # the last file that a run of the stage writes
    "stage=distill": "finished.json",
    "stage=evaluate": "evaluation.json",
    "stage=pairs": "export/t2ilab.json",
}
COLUMNS = {  # heading to metric of evaluation.json, its factor and decimals
    "prompt accuracy, %": ("judge/overall", 100, 1),
    "teacher in as many steps, %": ("teacher/nfe/judge@{steps}", 100, 1),
    "Frechet": ("fd_clip", 1, 1),
    "diversity": ("diversity", 1, 3),
    "sharpness": ("high_frequency", 1, 3),
}


class Runs:
    """The runs of a table, one after the other.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.rows, self.plan = args, ROWS | FURTHER, (*PLAN, *args.measure)

    def run(self, name: str, *overrides: str) -> Path:
        """One run through the command line; returns its folder.

        Raises:
            ValueError: the folder holds a run by another command.
        """
        folder = self.args.out / name.replace(", ", "-").replace(" ", "_")
        stage = next(option for option in overrides if option.startswith("stage="))
        return launch(folder, overrides, done=DONE[stage], threads=self.args.threads)

    def measured(self, name: str, *overrides: str) -> Evaluation:
        """The teacher by the plan of the table."""
        return Evaluation.load(
            self.run(name, "stage=evaluate", self.start(None), *self.plan, *overrides) / "evaluation.json"
        )

    def start(self, of: str | None) -> str:
        """`init_from=` of the teacher, or of the row `of`."""
        return f"init_from={self.args.teacher if of is None else self.student(of)}"

    def pairs(self, row: Row) -> list[str]:
        """The data of a row that learns from pairs; draws them."""
        if row.pairs is None:
            return []
        name = f"pairs of {row.of or 'the teacher'}"
        drawn = (f"stage.prompts={self.args.prompts}", f"stage.images={self.args.copies}", *row.pairs)
        folder = self.run(name, "stage=pairs", "reward=none", self.start(row.of), *drawn)
        return ["data=pairs", f"data.path={folder}"]

    def student(self, name: str) -> Path:
        """The folder of a row; trains it."""
        row = self.rows[name]
        own = [*QUIET, "stage=distill", self.start(row.of), *row.own, *self.pairs(row)]
        rated = any(option.startswith("optimizer.lr=") for option in row.own)
        own += [] if rated else [f"optimizer.lr={self.args.rate:g}"]
        own += [f"trainer.threads={self.args.threads}"]
        steps = self.args.steps or self.steps_in(name, own)
        compared = f"stage.compare_steps=[{row.steps}]" if row.steps else "stage.compare_steps=[4,8]"
        return self.run(name, *own, *self.plan, compared, f"trainer.max_steps={steps}")

    def steps_in(self, name: str, own: Sequence[str]) -> int:
        """How many steps a row makes in the minutes of the table, from a short run."""
        short = [*LITTLE, "stage.compare_steps=[]", f"logger.every={PROBE_EVERY}"]
        folder = self.run(f"timing/{name}", *own, *short, f"trainer.max_steps={PROBE_STEPS}")
        with (folder / "metrics.csv").open() as file:
            seconds = [0.0, *(float(row["train/seconds"]) for row in csv.DictReader(file))]
        return max(20, round(self.args.minutes * 60 / pace(seconds) / 20) * 20)


def shown(metric: Metric | None, factor: float, digits: int) -> str:
    """A number with its interval; a dash for none."""
    if metric is None:
        return "-"
    numbers = (metric.value, metric.low, metric.high)
    value, low, high = ("" if one is None else f"{factor * one:.{digits}f}" for one in numbers)
    return f"{value} ({low} .. {high})" if low else value


def of_teacher(teacher: Evaluation, student: Evaluation) -> str:
    """The student's score in percent of the teacher's, with the interval of the paired difference over the latter."""
    (change,) = [change for change in compare(teacher, student) if change.key == "judge/overall"]
    whole, difference = change.before.value, change.difference
    if not whole:
        return "-"
    ends = [difference.value, difference.low, difference.high]
    value, low, high = (None if end is None else 100 * (1 + end / whole) for end in ends)
    return f"{value:.1f}" + ("" if low is None else f" ({low:.1f} .. {high:.1f})")


def line(
    name: str, found: Evaluation, fine: Evaluation, more: Sequence[str], steps: int | None = None
) -> str:
    """A row of the table."""
    cells = [shown(found.get(key.format(steps=steps)), *how) for key, *how in COLUMNS.values()]
    cells.insert(1, of_teacher(fine, found))
    return f"| {name} | " + " | ".join([*cells, *more]) + " |"


def facts(folder: Path, found: Evaluation) -> list[str]:
    """Straightness and milliseconds per image, of the student and of its teacher, and how long it was trained."""
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    cells = []
    for key, factor, digits in (("straightness", 1, 3), ("seconds", 1000, 1)):
        pair = [found.get(f"{who}{key}") for who in ("", "teacher/")]
        cells.append(", ".join(f"{factor * one.value:.{digits}f}" if one else "-" for one in pair))
    return [*cells, str(manifest["steps"])]


def report(args: argparse.Namespace) -> None:
    """Makes what is not there yet, and prints the table line by line."""
    runs = Runs(args)
    names = args.only or [*ROWS, *(FURTHER if args.all else ())]
    fine = runs.measured("teacher without noise", *FINE)
    root = next((name for name in names if runs.rows[name].of is None), runs.rows[names[0]].of)
    itself = Evaluation.load(runs.student(str(root)) / "before.json")
    headings = ["student", *COLUMNS, "straightness, teacher's", "ms per image, teacher's", "steps"]
    headings.insert(2, "of the teacher, %")
    print("| " + " | ".join(headings) + " |\n|---|" + "---|" * (len(headings) - 1))
    print(line("teacher, 32 steps without noise", fine, fine, ["-", "-", "-"]))
    print(line("teacher as it draws itself", itself, fine, ["-", "-", "-"]), flush=True)
    for name in names:
        folder = runs.student(name)
        found = Evaluation.load(folder / "evaluation.json")
        print(line(name, found, fine, facts(folder, found), runs.rows[name].steps), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", nargs="?", type=Path, help="run or export folder")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--all", action="store_true", help="with the rows that compare variants")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, of every row")
    parser.add_argument("--steps", type=positive, help="of every row, instead of minutes")
    parser.add_argument(
        "--rate",
        type=float,
        default=1e-3,
        help="of AdamW; a student that begins near its teacher may want less",
    )
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--prompts", type=positive, default=2000, help="of the pairs")
    parser.add_argument("--copies", type=positive, default=4, help="images of each of these")
    parser.add_argument(
        "--measure", nargs="*", default=(), help="other options of the measurement, eval.x=..."
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/distillation"))
    args = parser.parse_args()
    if args.list or args.teacher is None:
        for name, row in (ROWS | FURTHER).items():
            print(f"{name:42s} {' '.join(row.own)}" + (f", a student of {row.of}" if row.of else ""))
        return
    unknown = set(args.only or ()) - set(ROWS | FURTHER)
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)}; there are: {'; '.join(ROWS | FURTHER)}")
    args.out, args.teacher = args.out.resolve(), args.teacher.resolve()
    report(args)


if __name__ == "__main__":
    main()
