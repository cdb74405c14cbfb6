"""The end of every sweep: one table over its jobs, in the terminal and as sweep.csv and sweep.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Table(Callback):
    """Hydra calls it once all jobs of a sweep have come to their end, by whichever sweeper and launcher."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if folder.is_dir():
            tell(folder)


def tell(folder: Path) -> None:
    """Prints the table of the jobs in a sweep's folder and writes it beside them; nothing where no job left a run."""
    from rich.console import Console

    from t2ilab.eval.sweep import read_sweep
    from t2ilab.runs.folder import from_here

    sweep = read_sweep(folder)
    if sweep is None:
        return
    print()
    Console().print(sweep.table())
    for note in sweep.notes():
        print(f"note: {note}")
    table, html = sweep.write()
    print(f"sweep: {from_here(table)}, {from_here(html)}", flush=True)
