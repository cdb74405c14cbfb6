"""What to do where memory or the disk has run out, in one sentence that names the option."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

MEMORY = (  # as allocators, the loader of libraries, and torch's own arithmetic of sizes say it
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "bad_alloc",
    "alloc_failed",
    "unable to mmap",
    "failed to map segment",
    "can't start new thread",
    "storage size calculation overflowed",
    "integer multiplication overflow",
)
SHARED = ("shared memory", "(shm)", "dataloader worker")  # where the workers of a loader leave their batches
DISK = ("no space left on device", "disk quota exceeded", "inline_container", "pytorchstreamwriter failed")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLACES = (  # file and function that the program was in, the innermost counts; what it did; what makes that smaller
    ("eval/", "measuring", "eval.batch_size"),
    ("measuring/", "measuring", "eval.batch_size"),
    ("stages/sample.py", "drawing", "stage.batch_size"),
    ("data/cache.py:open_or_fill", "encoding images and texts", "data.resolution"),
    (":check_latents", "encoding images", "data.resolution"),
    ("data/module.py", "fetching a batch", "data.batch_size"),
    ("training/fit.py", "training", "data.batch_size"),
)
PACKAGE = Path(__file__).parent


def shortage(error: BaseException, option: Callable[[str], object]) -> str | None:
    """The sentence, or None if the error is of another kind.

    Args:
        option: the value of a dotted option of the run, None if it has no such option.
    """
    for cause in _causes(error):
        text = str(cause).lower()
        full = isinstance(cause, OSError) and cause.errno in FULL
        if isinstance(cause, OSError | RuntimeError) and any(words in text for words in SHARED):
            return (
                f"the data workers ran out of memory ({_first_line(cause)}): lower data.workers="
                f"{option('data.workers')}, 0 fetches in the training process"
            )
        if full or (not isinstance(cause, ValueError) and any(words in text for words in DISK)):
            return _disk(error, cause, option)
        if _is_memory(cause, text):
            return _memory(error, cause, option)
    return None


def _is_memory(cause: BaseException, text: str) -> bool:
    if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
        return True
    return isinstance(cause, RuntimeError | ImportError | OSError) and any(words in text for words in MEMORY)


def _memory(error: BaseException, cause: BaseException, option: Callable[[str], object]) -> str:
    doing, key = _place(error)
    if option(key) is None:
        fitting = (
            name for name in ("stage.batch_size", "eval.batch_size", "data.batch_size") if option(name)
        )
        key = next(fitting, "")
    said = f"out of memory while {doing} ({_first_line(cause)})"
    if not key:
        return f"{said}: it needs a machine with more memory, or a smaller model"
    advice = f"{said}: lower {key}={option(key)}"
    if key == "data.batch_size" and option("stage.name") != "encoder":
        advice += (
            f", or raise trainer.accumulate={option('trainer.accumulate')}, which computes the same step in "
            "smaller pieces"
        )
    return advice


def _disk(error: BaseException, cause: BaseException, option: Callable[[str], object]) -> str:
    if "make room" in str(error).lower() or "T2ILAB_CACHE" in str(error):  # who wrote knows better
        return str(error)
    from t2ilab.data.cache import cache_root

    fewer = f", lower checkpoint.keep={option('checkpoint.keep')}" if option("checkpoint.keep") else ""
    return (
        f"the disk is full ({_first_line(cause)}): make room for the run folder, or choose another run_dir"
        f"{fewer}; caches lie in {cache_root()}, T2ILAB_CACHE=DIR puts them elsewhere; then give the same command "
        "again"
    )


def _place(error: BaseException) -> tuple[str, str]:
    """What was being done when the error came, and the option that makes it smaller."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        file = Path(code.co_filename)
        if file.is_relative_to(PACKAGE):
            frames.append(f"{file.relative_to(PACKAGE).as_posix()}:{code.co_name}")
        trace = trace.tb_next
    for frame in reversed(frames):
        for part, doing, key in PLACES:
            if part in frame:
                return doing, key
    return "preparing the run", "data.batch_size"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
