"""How the code is built, in numbers: python benchmarks/structure.py [ROOT]

Lengths of functions and files, `Any` among arguments, lines that read configs, whether files import each other in a
circle, and how many files of the package are on the call stack, from the command line down, when `debug=tiny` makes
its network. ROOT: another checkout.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import grimp

CONFIG = (
    "composition",
    "check",
    "explain",
    "groups",
    "names",
    "overrides",
    "settings",
    "signature",
    "build",
    "faults",
)
STACK = """
import json, sys
from t2ilab.models import dit
from t2ilab.__main__ import main

def told(self, *a, **k):
    files, frame = [], sys._getframe(1)
    while frame:
        name = frame.f_code.co_filename
        if "/t2ilab/" in name and name not in files:
            files.append(name)
        frame = frame.f_back
    if "run_dir" in " ".join(sys.argv) and any("/stages/" in name for name in files):
        print("STACK", len(files))
        sys.exit(0)
    return first(self, *a, **k)

first = dit.DiT.__init__
told.__signature__ = __import__("inspect").signature(first)
dit.DiT.__init__ = told
main()
"""


def functions(root: Path) -> list[tuple[int, str, list[ast.arg]]]:
    """(lines, name, arguments) of every function of the package."""
    found = []
    for file in sorted((root / "t2ilab").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{file.relative_to(root)}:{node.name}"
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found.append(((node.end_lineno or 0) - node.lineno + 1, name, arguments))
    return sorted(found, key=lambda each: each[:2])


def circle(root: Path) -> str:
    """Files that import each other, imports inside functions among them; "none"."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph("t2ilab", exclude_type_checking_imports=True)
    try:
        graphlib.TopologicalSorter(
            {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
        ).prepare()
    except graphlib.CycleError as error:
        return " -> ".join(error.args[1])
    return "none"


def stack(root: Path) -> str:
    """Files of the package on the call stack when the network of `debug=tiny` is made."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", STACK, "debug=tiny", f"run_dir={folder}/run"]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    return next((line.split()[1] for line in done.stdout.splitlines() if line.startswith("STACK")), "?")


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    found = functions(root)
    lengths = [lines for lines, _, _ in found]
    given = [argument for _, _, arguments in found for argument in arguments if argument.annotation]
    anys = sum("Any" in ast.unparse(argument.annotation) for argument in given if argument.annotation)
    files = list((root / "t2ilab").rglob("*.py"))
    config = sum(len(file.read_text().splitlines()) for file in files if file.stem in CONFIG)
    sizes = sorted(len(file.read_text().splitlines()) for file in files)
    print(
        f"files {len(files)}, lines {sum(sizes)}, p90 of a file {sizes[int(0.9 * len(sizes))]}, longest {sizes[-1]}"
    )
    print(f"functions {len(found)}, p50 {lengths[len(lengths) // 2]}, p90 {lengths[int(0.9 * len(lengths))]}")
    print("longest: " + ", ".join(f"{name} {lines}" for lines, name, _ in found[-5:]))
    print(f"Any in {anys} of {len(given)} annotated arguments")
    print(f"lines that read configs: {config}")
    print(f"import circle: {circle(root)}")
    print(f"files on the stack when the network is made: {stack(root)}")


if __name__ == "__main__":
    main()
