"""Counts which small changes of t2ilab/core and t2ilab/objectives the fast tests notice.

    python -m tests.mutants                              every mutant, then the table and the exit code
    python -m tests.mutants --only core/path.py          of some modules
    python -m tests.mutants --share 0.1                  of every tenth mutant
    python -m tests.mutants --list                       which there are
    python -m tests.mutants --report                     what is known so far

What was found is in outputs/mutants/results.jsonl, and an interrupted check goes on from there: a mutant that was
caught is not tried again until its module changes, one that survived is when any test does. Survivors of the tests
that import a module are tried against all others, unless --near is given. survivors.json lists those that may live,
each with its reason; the exit code is 1 where less than 95 % are caught, or another one survives.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.operators import Mutant, mutants
from tests.mutants.running import Served, run_each
from tests.mutants.selection import ROOT, far, near

_FIRST = ("path", "prediction", "denoiser", "weighting", "timestep", "guidance", "shift")
_HEAVY = (
    *(
        "torch",
        "torchvision",
        "numpy",
        "scipy.stats",
        "scipy.integrate",
        "PIL.Image",
        "pytest",
        "hydra.utils",
    ),
    *("lightning", "lpips", "tokenizers", "transformers.modeling_utils"),
    *("diffusers.schedulers.scheduling_utils", "diffusers.models.attention_processor"),
)
_WANTED = 0.95
_RESULTS = ROOT / "outputs" / "mutants" / "results.jsonl"
_ACCEPTED = Path(__file__).with_name("survivors.json")


def main() -> int:
    args = _arguments()
    modules = [name for name in _modules() if not args.only or name in args.only]
    chosen = {name: _share(list(mutants(name, _source(name))), args.share) for name in modules}
    if args.list:
        print("\n".join(f"{mutant.id}   {mutant.key}" for name in modules for mutant in chosen[name]))
        return 0
    accepted: dict[str, str] = json.loads(_ACCEPTED.read_text())
    rounds = () if args.report else (near, far) if args.far else (near,)
    if rounds:
        _prepare()
    for tests_of in rounds:
        left = {name: _open(chosen[name], _known(name), accepted, tests_of is far) for name in modules}
        left = {name: some for name, some in left.items() if some and tests_of(name)}
        limit = _limit(sorted({test for name in left for test in tests_of(name)}))
        for name, some in left.items():
            _check(name, some, tests_of(name), limit, args.workers)
    return _report(chosen, accepted)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="FILE", help="modules, such as core/path.py")
    parser.add_argument(
        "--share", type=float, default=1.0, help="part of each module's mutants, evenly spread"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--report", action="store_true", help="print what is known and stop")
    parser.add_argument(
        "--near", dest="far", action="store_false", help="leave out the tests that do not import the module"
    )
    return parser.parse_args()


def _modules() -> list[str]:
    """The files with mutants, what everything rests on first."""
    found = [*(ROOT / "t2ilab/core").glob("*.py"), *(ROOT / "t2ilab/objectives").rglob("*.py")]
    order = {name: place for place, name in enumerate(_FIRST)}
    found.sort(key=lambda path: ("objectives" in path.parts, order.get(path.stem, len(order)), path))
    return [str(path.relative_to(ROOT / "t2ilab")) for path in found if path.stat().st_size]


def _source(module: str) -> str:
    return (ROOT / "t2ilab" / module).read_text()


def _share(every: list[Mutant], share: float) -> list[Mutant]:
    count = max(1, round(share * len(every)))
    return [every[i * len(every) // count] for i in range(count)] if every else []


def _prepare() -> None:
    """Imports what tests spend their start on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _HEAVY:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    gc.collect()
    gc.freeze()  # pytest collects garbage three times a run
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)


def _hash(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def _tests_hash() -> str:
    return _hash(*(path for path in sorted((ROOT / "tests").rglob("*.py")) if path.parent.name != "mutants"))


def _known(module: str) -> dict[str, dict[str, object]]:
    """The newest outcome of every mutant of a module that still says something."""
    lines = _RESULTS.read_text().splitlines() if _RESULTS.exists() else []
    source, tests = _hash(ROOT / "t2ilab" / module), _tests_hash()
    records = (json.loads(line) for line in lines)
    return {
        str(record["id"]): record
        for record in records
        if record["source"] == source and (record["verdict"] != "survived" or record["tests"] == tests)
    }


def _open(
    every: list[Mutant], known: dict[str, dict[str, object]], accepted: dict[str, str], wide: bool
) -> list[Mutant]:
    """The mutants that are still to be tried; among all tests only what survived those nearby and may not."""
    if not wide:
        return [mutant for mutant in every if mutant.id not in known]
    alive = (mutant for mutant in every if known.get(mutant.id, {}).get("verdict") == "survived")
    return [mutant for mutant in alive if mutant.key not in accepted and not known[mutant.id]["wide"]]


def _limit(tests: list[str]) -> float:
    """Seconds after which a run of these tests hangs: thrice what they take without any change.

    Raises:
        SystemExit: they fail without any change.
    """
    log = _RESULTS.with_name("unchanged.log")
    if not tests:
        return 0.0
    [(_, unchanged)] = run_each([(None, None)], tests, 3600, log=log)
    if unchanged.verdict != "survived":
        raise SystemExit(f"{unchanged.by} fails without any change: see {log}")
    return 3 * unchanged.seconds + 20


def _check(module: str, left: list[Mutant], tests: list[str], limit: float, workers: int) -> None:
    """Tries mutants and appends what happened to the results."""
    wide = tests == far(module)
    stamp = {"source": _hash(ROOT / "t2ilab" / module), "tests": _tests_hash(), "wide": wide}
    changes = ((mutant, Served(module, mutant.tree())) for mutant in left)
    with _RESULTS.open("a") as results:
        for mutant, outcome in run_each(changes, tests, limit, workers=workers):
            record = {"id": mutant.id, "key": mutant.key, **vars(outcome), **stamp}
            print(json.dumps(record), file=results, flush=True)
            if outcome.verdict == "survived":
                print(f"survived {'all' if wide else 'near'} tests: {mutant.id}   {mutant.key}", flush=True)


def _report(chosen: dict[str, list[Mutant]], accepted: dict[str, str]) -> int:
    """Prints the table and what is wrong with the list; the exit code."""
    caught: list[Mutant] = []
    alive: list[Mutant] = []
    print("\n| module | mutants | caught | survivors |\n|---|---|---|---|")
    for name, every in chosen.items():
        known = _known(name)
        tried = [mutant for mutant in every if mutant.id in known]
        living = [mutant for mutant in tried if known[mutant.id]["verdict"] == "survived"]
        alive += living
        caught += [mutant for mutant in tried if mutant not in living]
        if tried:
            print(f"| {name} | {len(tried)} | {len(tried) - len(living)} | {len(living)} |")
    share = len(caught) / max(len(caught) + len(alive), 1)
    print(f"| **all** | {len(caught) + len(alive)} | {len(caught)} ({100 * share:.1f} %) | {len(alive)} |")
    unlisted = [mutant for mutant in alive if mutant.key not in accepted]
    print(*(f"not in survivors.json: {mutant.id}   {mutant.key}" for mutant in unlisted), sep="\n")
    print(*_stale(accepted, {mutant.key for mutant in caught}, chosen), sep="\n")
    return int(share < _WANTED or bool(unlisted))


def _stale(accepted: dict[str, str], caught: set[str], chosen: dict[str, list[Mutant]]) -> Iterator[str]:
    there = {mutant.key for every in chosen.values() for mutant in every}
    for key in accepted:
        if key in caught:
            yield f"in survivors.json, but caught: {key}"
        elif key.split(" ")[0] in chosen and key not in there:
            yield f"in survivors.json, but no such mutant (or outside --share): {key}"


if __name__ == "__main__":
    sys.exit(main())
