"""Runs tests in a fork whose import of one module is served from a changed syntax tree.

The parent has imported what is heavy and nothing of t2ilab, so that a fork starts in no time and sees the change
wherever the module is imported.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import IO, TypeVar

import pytest

from tests.mutants.selection import ROOT

Tag = TypeVar("Tag")
_UNUSED = ("cacheprovider", "hypothesispytest", "xdist", "anyio", "unraisableexception")  # they cost a second
MARKED = "not slow and not dist and not gpu and not proof"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        verdict: `caught`, `timeout`, `crash` or `survived`.
        by: the first test that failed.
        seconds: of the processor.
    """

    verdict: str
    by: str
    seconds: float


def run_each(
    changes: Iterable[tuple[Tag, Served | None]],
    tests: list[str],
    limit: float,
    *,
    workers: int = 1,
    log: Path | None = None,
) -> Iterator[tuple[Tag, Outcome]]:
    """Runs tests until one fails, once for each changed module; None changes nothing.

    Args:
        limit: seconds of the processor for each; of the clock ten times as many.
        workers: how many run at once; results come as they are ready.
        log: where pytest writes; None for nowhere.
    """
    running: dict[int, tuple[Tag, IO[str]]] = {}

    def finished() -> tuple[Tag, Outcome]:
        child, status = os.wait()
        tag, result = running.pop(child)
        with result:
            result.seek(0)
            return tag, _outcome(status, result.read(), limit)

    for tag, served in changes:
        if len(running) == workers:
            yield finished()
        result = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed when its run has finished
        running[_start(served, tests, limit, log, result)] = tag, result
    while running:
        yield finished()


def _start(served: Served | None, tests: list[str], limit: float, log: Path | None, result: IO[str]) -> int:
    assert not any(name == "t2ilab" or name.startswith("t2ilab.") for name in sys.modules)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 60))
        signal.alarm(10 * int(limit + 1))
        _silence(log)
        if served is not None:
            sys.meta_path.insert(0, served)
        json.dump(asdict(_pytest(tests)), result)
        result.flush()
        os._exit(0)
    return child


def _outcome(status: int, text: str, limit: float) -> Outcome:
    if text:
        return Outcome(**json.loads(text))
    stopped = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM)
    return Outcome("timeout" if stopped else "crash", "", limit)


def _silence(log: Path | None) -> None:
    file = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)


class _First:
    """A plugin of pytest that notes the first failure."""

    def __init__(self) -> None:
        self.failed = ""

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    pytest_runtest_logreport = _note
    pytest_collectreport = _note


def _pytest(tests: list[str]) -> Outcome:
    """The first file by itself: it mostly knows, and the others take longer to read."""
    start, first, fine = time.process_time(), _First(), True
    options = ["-x", "-q", "-m", MARKED, *(f"-pno:{name}" for name in _UNUSED)]
    for files in filter(None, (tests[:1], tests[1:])):
        try:
            code = pytest.main([*options, *files], plugins=[first])
        except BaseException as error:  # a change may make anything raise, even pytest's own exits
            code, first.failed = pytest.ExitCode.INTERNAL_ERROR, repr(error)[:200]
        fine = fine and code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if not fine:
            break
    return Outcome("survived" if fine else "caught", first.failed, round(time.process_time() - start, 2))


class Served(SourceFileLoader):
    """Finder and loader of the module `t2ilab/module`, whose code comes from the tree."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        super().__init__(
            "t2ilab." + module.removesuffix(".py").replace("/", "."), str(ROOT / "t2ilab" / module)
        )
        self.tree = tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return (
            importlib.util.spec_from_file_location(name, self.path, loader=self)
            if name == self.name
            else None
        )

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")
