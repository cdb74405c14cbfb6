"""What learning from preferences does to a finished model, and what a reward model learns from how many labels.

    python benchmarks/preferences.py family BASE [--minutes 6 | --steps N] [--only dpo/drawn ...] [--out DIR]
    python benchmarks/preferences.py reward [--steps 1500] [--samples RUN] [--only pairs ...] [--out DIR]

`family` draws pairs of BASE (a run folder) by the judge, then trains BASE with every preference loss on these pairs
and on built-in ones, with the winners alone, and plainly further, each for equally many minutes of training on one
thread (timed first) or for equally many steps. All are measured before and after on the same unseen prompts.
Differences are of pairs, each prompt with itself, with 95 % intervals; `other noise` is the judge on a second draw.
What drawing the pairs costs is not in the minutes.
`reward` trains reward models on pairs and on rankings of equally many images, and measures each on 10,000 held-out
pairs, in expectation over the known odds.

A run that is done is not run again, one that was stopped goes on; each line of the table is printed when it is known.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import launch
from tables import PROBE_EVERY, PROBE_STEPS, pace, positive, trained

from t2ilab.eval.compare import compare
from t2ilab.eval.result import Evaluation
from t2ilab.runs.record import FINISHED

LOSSES = ("dpo", "ipo", "hinge", "kto", "mapo", "sft_winners")
SOURCES = ("drawn", "world")
CONTINUED = "plain training"
UTILITY = [f"eval.rewards.utility.{name}=2" for name in ("passed", "share", "quality")]
MEASURED = (
    *("eval=standard", "eval.nfe_steps=[]", "eval.other_noise=true", "stage.preview_every=100000"),
    *("+reward@eval.rewards.utility=judge", *UTILITY),
)
UNMEASURED = (
    "eval.prompts_per_task=1",
    "eval.compose_per_task=0",
    "eval.reference_images=0",
    "eval.heldout_images=0",
)
SHOWN = {  # heading -> metric of changes.json
    "judge": "judge/overall",
    "compose": "compose/overall",
    "other noise": "other_noise/overall",
    "style": "style",
    "utility": "reward/utility",
    "clip_score": "clip_score",
}
REWARDS = {  # equally many images of each: 20,000 pairs or 10,000 rankings of four
    "pairs": ["loss=bradley_terry", "data.images=2"],
    "rankings, pair by pair": ["loss=bradley_terry", "data.images=4"],
    "rankings, list-wise": ["loss=plackett_luce", "data.images=4"],
    "pairs, Gaussian": ["loss=gaussian_utility", "model.uncertain=true", "data.images=2"],
    "pairs, cosine head": ["loss=bradley_terry", "model.head=cosine", "data.images=2"],
    "pairs, last two blocks": ["loss=bradley_terry", "model.layers=2", "data.images=2"],
}
QUALITY = {
    "accuracy": "reward/accuracy",
    "expected": "reward/expected_accuracy",
    "best": "reward/expected_best",
    "nll": "reward/nll",
    "ece": "reward/ece",
    "saturation": "reward/saturation_bias",
    "on samples": "reward/accuracy@samples",
    "best there": "reward/best_accuracy@samples",
}


def family(base: str, drawn: Path, plain: Sequence[str] = ("data=scenes",)) -> dict[str, list[str]]:
    """The command line of every setting, plain further training first.

    Args:
        base: run folder; drawn: that of the pairs which it drew.
        plain: options that choose the data of plain further training, those of BASE.
    """
    data = {"drawn": ["data=pairs", f"data.path={drawn}"], "world": ["data=scenes_preferences"]}
    settings = {CONTINUED: ["stage=continue", *plain, "stage.replay=0", "optimizer=adamw_preference"]}
    for source in SOURCES:
        for loss in LOSSES:
            settings[f"{loss}/{source}"] = ["stage=preference", f"loss={loss}", *data[source]]
    return {name: [*own, f"init_from={base}"] for name, own in settings.items()}


def rewards(samples: str | None) -> dict[str, list[str]]:
    """The command line of every reward model; batches and data hold equally many images."""
    found = {}
    for name, own in REWARDS.items():
        four = "data.images=4" in own
        sizes = (
            ["data.size=10000", "data.batch_size=32"] if four else ["data.size=20000", "data.batch_size=64"]
        )
        found[name] = ["stage=reward", *own, *sizes, *([f"stage.samples_from={samples}"] if samples else [])]
    return found


def run(run_dir: Path, overrides: Sequence[str]) -> Path:
    """One run through the command line, on one thread; returns its folder.

    Raises:
        ValueError: the folder holds a finished run by another command.
    """
    if "stage=pairs" in overrides:
        return launch(run_dir, overrides, done="export/t2ilab.json", threads=1)
    return launch(run_dir, [*overrides, "trainer.threads=1"], done=FINISHED, threads=1)


def steps_in(minutes: float, folder: Path, overrides: Sequence[str]) -> int:
    """How many steps a setting makes in so many minutes, from a short run that is hardly measured."""
    short = (*UNMEASURED, f"logger.every={PROBE_EVERY}", f"trainer.max_steps={PROBE_STEPS}")
    path = run(folder.with_name(f"{folder.name}-timing"), [*overrides, *MEASURED, *short])
    rows = (path / "metrics.csv").read_text().splitlines()
    place = rows[0].split(",").index("train/seconds")
    return max(1, round(minutes * 60 / pace([0.0, *(float(row.split(",")[place]) for row in rows[1:])])))


def with_interval(change: Mapping[str, Any], percent: bool) -> str:
    """`+3.1 (1.2 .. 5.0)`, in points where it is a share."""
    if change.get("difference") is None:
        return ""
    factor, digits = (100, 1) if percent else (1, 3)
    value, low, high = (change[key] for key in ("difference", "low", "high"))
    limits = "" if low is None else f" ({factor * low:.{digits}f} .. {factor * high:.{digits}f})"
    return f"{factor * value:+.{digits}f}{limits}"


def row(name: str, folder: Path, plain: Path | None) -> list[str]:
    """The cells of one setting.

    Args:
        plain: the run of plain further training, which the judge's score is held against too.
    """
    changes = json.loads((folder / "changes.json").read_text())
    last = trained(folder)
    cells = [name, f"{int(last['step'])}", f"{last['train/seconds'] / 60:.1f}"]
    for key in SHOWN.values():
        cells.append(with_interval(changes.get(key, {}), key.endswith("/overall")))
    diversity = changes.get("diversity", {})
    ratio = diversity["after"] / diversity["before"] if diversity.get("before") else None
    cells += ["" if ratio is None else f"{100 * ratio:.0f} %", f"{changes['drift']['after']:.4f}"]
    if plain is None or plain == folder:
        return [*cells, ""]
    both = (Evaluation.load(path / "evaluation.json") for path in (plain, folder))
    (gap,) = (one.difference for one in compare(*both) if one.key == "judge/overall")
    return [*cells, with_interval({"difference": gap.value, "low": gap.low, "high": gap.high}, True)]


def show_family(args: argparse.Namespace) -> None:
    """Draws, trains and prints the table of losses."""
    drawing = [f"stage.prompts={args.prompts}", f"stage.images={args.images}", f"reward={args.reward}"]
    drawn = run(args.out / "drawn", ["stage=pairs", f"init_from={args.base}", *drawing])
    settings = chosen(family(args.base, drawn, args.plain), args.only)
    headings = ["setting", "steps", "minutes", *SHOWN, "diversity", "drift", "judge against plain training"]
    heading(f"differences from {args.base}, 95 % intervals of pairs", headings)
    plain = None
    for name, own in settings.items():
        folder = args.out / name.replace("/", "-").replace(" ", "_")
        steps = args.steps or steps_in(args.minutes, folder, [*own, *args.options])
        options = [*MEASURED, f"checkpoint.every={min(100, steps)}", *args.options]
        path = run(folder, [*own, *options, f"trainer.max_steps={steps}"])
        plain = path if name == CONTINUED else plain
        print("| " + " | ".join(row(name, path, plain)) + " |", flush=True)


def show_rewards(args: argparse.Namespace) -> None:
    """Trains and prints the table of reward models."""
    heading(f"reward models after {args.steps} steps, 95 % intervals", ["setting", *QUALITY])
    for name, own in chosen(rewards(args.samples), args.only).items():
        folder = args.out / name.replace(", ", "-").replace(" ", "_")
        path = run(folder, [*own, *args.options, f"trainer.max_steps={args.steps}"])
        found = Evaluation.load(path / "evaluation.json")
        cells = [found[key].text() if key in found.metrics else "" for key in QUALITY.values()]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def heading(title: str, columns: Sequence[str]) -> None:
    print(f"{title}\n\n| " + " | ".join(columns) + " |\n|---|" + "---|" * (len(columns) - 1), flush=True)


def chosen(settings: Mapping[str, list[str]], only: Sequence[str] | None) -> dict[str, list[str]]:
    """Those that are asked for.

    Raises:
        SystemExit: one of them is not there.
    """
    if unknown := set(only or ()) - set(settings):
        sys.exit(f"--only: no {', '.join(sorted(unknown))}; there are: {'; '.join(settings)}")
    return {name: own for name, own in settings.items() if only is None or name in only}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = parser.add_subparsers(required=True)
    losses = tables.add_parser("family")
    losses.add_argument("base", help="run folder of a finished model on the synthetic data set")
    losses.add_argument("--minutes", type=float, default=6.0, help="of training on one thread, each")
    losses.add_argument("--steps", type=positive, help="equally many steps instead")
    losses.add_argument("--prompts", type=positive, default=2000, help="drawn for pairs")
    losses.add_argument("--images", type=positive, default=8, help="of each prompt")
    losses.add_argument("--reward", default="judge", help="that chooses the pairs")
    losses.add_argument("--plain", nargs="*", default=["data=scenes"], help="data of plain further training")
    losses.add_argument("--out", type=Path, default=Path("outputs/preferences/family"))
    losses.set_defaults(show=show_family)
    models = tables.add_parser("reward")
    models.add_argument("--steps", type=positive, default=1500)
    models.add_argument("--samples", help="run folder of a model, whose images are scored too")
    models.add_argument("--out", type=Path, default=Path("outputs/preferences/reward"))
    models.set_defaults(show=show_rewards)
    for one in (losses, models):
        one.add_argument("--only", nargs="*", help="settings; all if omitted")
        one.add_argument("--options", nargs="*", default=[], help="further options of every training run")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.show(args)


if __name__ == "__main__":
    main()
