"""The same prompts down several finished models: python benchmarks/stages.py OUT.png NAME=RUN NAME=RUN ...

For stages of a life cycle, or for any runs that are to be seen beside each other. Each row is a model, each column a
prompt, drawn from the same noise; the prompts are some of each run's own data. Frames as in benchmarks/strip.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from strip import strip

from t2ilab.eval.grid import Grid
from t2ilab.export.manifest import read_manifest
from t2ilab.measuring.drawn import drawn, prompts_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--prompts", nargs="*", help="default: some of the data of each run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    runs = dict(run.split("=", 1) for run in given.runs)
    manifests = [read_manifest(run, kind=("denoiser", "adapter"))[1] for run in runs.values()]
    prompts = given.prompts or prompts_of(manifests)
    grids = []
    for run in runs.values():
        cells = drawn(Path(run), prompts, given.seed)
        grids.append(Grid(np.stack([cell.image for cell in cells]), tuple(prompts), {}))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    strip(grids, list(runs), len(prompts)).quantize(255).save(given.out, optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
