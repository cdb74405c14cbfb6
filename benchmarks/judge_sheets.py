"""The judge beside your own eyes: generated images that it calls right and wrong, on two sheets.

    python benchmarks/judge_sheets.py RUN OUT [--images 240] [--seed 1]

Draws test prompts with a finished model and writes OUT/right.png and OUT/wrong.png, images with prompts and what
the judge misses. Whoever counts the verdicts that they would not sign knows its error on generated images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from t2ilab.data.scenes import score_batch
from t2ilab.data.scenes.prompts import prompts
from t2ilab.data.scenes.score import Score
from t2ilab.eval.grid import save_grid, to_arrays
from t2ilab.export.denoiser import load

TASKS = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    asked = prompts("test", per_task=given.images // TASKS, seed=given.seed)
    images = load(given.run).generate([prompt.text for prompt in asked], seed=given.seed)
    scores = score_batch(asked, images)
    arrays = to_arrays(images)
    for name, verdict in (("right", True), ("wrong", False)):
        rows = [row for row, score in enumerate(scores) if bool(score.passed) is verdict]
        captions = [f"{row}: {asked[row].text} {'' if verdict else missed(scores[row])}" for row in rows]
        path = save_grid(given.out / f"{name}.png", arrays[rows], captions, columns=10)
        print(f"{len(rows)} of {len(asked)} {name}: {path}")


def missed(score: Score) -> str:
    """What the judge misses of a prompt."""
    return "[" + ", ".join(name for name, found in score.attributes.items() if not found) + "]"


if __name__ == "__main__":
    main()
