"""`stage=compare`: finished or stopped runs beside each other, from what their folders hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2ilab.build import Config
from t2ilab.core.folders import expanded
from t2ilab.eval.grid import read_grid
from t2ilab.eval.page import data_uri, page, title_of
from t2ilab.eval.runs import Run, read_run, short_names
from t2ilab.eval.side_by_side import SideBySide, curve_charts, gap_text, option_rows
from t2ilab.export.manifest import MANIFEST, write_text
from t2ilab.measuring.drawn import PROMPTS, Cell, drawn, judged, prompts_of
from t2ilab.runs.folder import RunDir

SIDE = 160  # pixels of an image in the page


def run(config: Config) -> None:
    """Writes compare.html and compare.json, and prints the table.

    Raises:
        ValueError: fewer than two runs, or a folder that is none.
    """
    runs = opened(config["runs"], config["stage"]["labels"])
    run_dir = RunDir(config["run_dir"])
    with run_dir.claimed():
        run_dir.remember(config)
        found = SideBySide.of(runs)
        prompts, images = drawn_images(runs, config.get("prompts"), config["seed"])
        told = found.to_json() | {
            "prompts": [
                {"prompt": prompt, "right": {name: cells[row].right for name, cells in images.items()}}
                for row, prompt in enumerate(prompts)
            ]
        }
        write_text(run_dir.path / "compare.json", json.dumps(told, indent=1))
        html = run_dir.path / "compare.html"
        write_text(html, render(found, prompts, images, config["command"]))
    say(found)
    print(f"comparison: {run_dir.relative(html)}")


def opened(folders: Sequence[str], labels: Sequence[str] | None = None) -> list[Run]:
    """The runs of these folders; of a folder of exports, the run it belongs to.

    Raises:
        ValueError: naming runs.
    """
    if len(folders) < 2:
        raise ValueError(
            f"runs: a comparison needs two run folders or more, 'runs=[A,B]', got {len(folders)}"
        )
    if labels is not None and (len(labels) != len(folders) or len(set(labels)) < len(labels)):
        raise ValueError(f"stage.labels: wanted {len(folders)} different names, got {list(labels)}")
    paths = [Path(expanded(folder)) for folder in folders]
    paths = [
        path.parent if path.name == "export" and not (path / "config.yaml").is_file() else path
        for path in paths
    ]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"runs: one folder is given twice: {', '.join(map(str, paths))}")
    try:
        return [read_run(path, name) for path, name in zip(paths, labels or short_names(paths), strict=True)]
    except ValueError as error:
        raise ValueError(f"runs: {error}") from error


def drawn_images(
    runs: Sequence[Run], prompts: Sequence[str] | None, seed: int
) -> tuple[list[str], dict[str, list[Cell]]]:
    """The same prompts by every run: from the same noise where all have exports, else of their last previews."""
    exports = {
        run.name: manifest_in(path) for run in runs if (path := run.folder / "export" / MANIFEST).is_file()
    }
    if len(exports) == len(runs) and all(manifest["kind"] == "denoiser" for manifest in exports.values()):
        asked = list(prompts or ()) or prompts_of(list(exports.values()))
        return asked, {run.name: drawn(run.folder, asked, seed) for run in runs}
    return of_previews(runs)


def manifest_in(path: Path) -> dict[str, Any]:
    """What an export says of itself.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"runs: {path} is damaged ({error})") from error
    return found


def of_previews(runs: Sequence[Run]) -> tuple[list[str], dict[str, list[Cell]]]:
    """The prompts that the last previews of all runs share, with their images."""
    grids = {run.name: read_grid(run.preview) for run in runs if run.preview is not None}
    if len(grids) < len(runs):
        return [], {}
    first = next(iter(grids.values())).captions
    shared = [prompt for prompt in first if all(prompt in grid.captions for grid in grids.values())][:PROMPTS]
    images: dict[str, list[Cell]] = {}
    for name, grid in grids.items():
        rows = grid.images[[grid.captions.index(prompt) for prompt in shared]]
        images[name] = [Cell(image, right) for image, right in zip(rows, judged(rows, shared), strict=True)]
    return (shared, images) if shared else ([], {})


def render(
    found: SideBySide, prompts: Sequence[str], images: Mapping[str, Sequence[Cell]], command: str
) -> str:
    """The page."""
    return page(
        "compare.html.j2",
        found=found,
        runs=found.runs,
        sentence=found.sentence(title_of),
        accuracy=[(run, run.evaluation.get("judge/overall")) for run in found.runs if run.evaluation],
        prompts=prompts,
        images=images,
        charts=curve_charts(found.runs),
        options=option_rows(found.options),
        command=command,
        gap_text=gap_text,
        title_of=title_of,
        image=lambda image: data_uri(image, SIDE),
    )


def say(found: SideBySide) -> None:
    """The table and the notes, for the terminal."""
    from rich.console import Console

    Console().print(found.table())
    for line in found.notes:
        print(f"note: {line}")
    for names in found.same:
        print(f"note: {' and '.join(names)} are the same run under other names")
    print(found.sentence(str))
