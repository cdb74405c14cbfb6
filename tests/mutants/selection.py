"""Which tests are asked about a module: those that import it, the nearest first."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEAR = ("tests/core/", "tests/objectives/", "tests/sampling/")


def near(module: str) -> list[str]:
    """Test files of `NEAR` that import a module (`core/path.py`): of its name, directly, then through others.

    Where none of them imports it directly, those elsewhere that do come first.
    """
    own = ROOT / "tests" / Path(module).parent / f"test_{Path(module).name}"
    name = "t2ilab." + module.removesuffix(".py").replace("/", ".")
    every = {path: _distance(path, name) for path in (ROOT / "tests").rglob("test_*.py")}
    close = {path for path in every if str(path.relative_to(ROOT)).startswith(NEAR)}
    asked = close if any(every[path] == 1 for path in close) else every
    found = [path for path in asked if every[path] == 1 or (path in close and every[path] is not None)]
    return _named(sorted(found, key=lambda path: (path != own, every[path], path)))


def far(module: str) -> list[str]:
    """All other test files; some reach the module through a config and import nothing."""
    tried = set(near(module))
    others = _named(sorted((ROOT / "tests").rglob("test_*.py")))
    return [name for name in others if name not in tried and not name.startswith("tests/mutants")]


def _named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def _distance(path: Path, name: str) -> int | None:
    """How many imports lead from a file to a module; None for no way."""
    seen, edge = {path}, {path}
    for distance in range(1, 99):
        names = set().union(*map(_imports, edge))
        if name in names:
            return distance
        edge = {file for file in map(_file, names) if file is not None} - seen
        if not edge:
            return None
        seen |= edge
    return None


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of this repository that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] in ("t2ilab", "tests"))


@cache
def _file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
