"""What a stage runs on and how often it writes; no Lightning here, so that a wrong number is answered at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from t2ilab.core.precision import PRECISIONS, has_bf16, resolved
from t2ilab.runs.ranks import is_first_process, launched, ranks

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp")
PROFILERS = ("simple", "advanced", "pytorch")


@dataclass(frozen=True)
class TrainerOptions:
    """How a stage is run.

    Attributes:
        max_steps: optimizer steps in all, counted from the start of the stage.
        accelerator, num_nodes: as in Lightning; `auto` uses what is there.
        devices: of a machine; `auto` becomes the number of processes that a launcher has started for it, else of
            its GPUs, else 1.
        strategy: `auto`, which is `ddp` for several processes: each holds the whole network.
        precision: `bf16` (autocast, fp32 weights), `fp32`, or `auto`: bf16 where the hardware has it.
        accumulate: micro-batches per optimizer step and process.
        clip: largest gradient norm, 0 for none.
        threads: torch threads per process; 0: one or all, by a trial (training/threads.py), or a share of the cores
            for each of several processes.
        profiler: of Lightning: its short name, or a Profiler; None for none.
    """

    max_steps: int
    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    accumulate: int = 1
    clip: float = 1.0
    threads: int = 0
    profiler: Any = None

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}, got {self.accelerator}"
            )
        if self.devices == "auto":
            object.__setattr__(self, "devices", devices_here(self.accelerator, self.num_nodes))
        for name in ("max_steps", "devices", "num_nodes", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {self.precision}"
            )
        if self.clip < 0:
            raise ValueError(f"trainer.clip must not be negative, got {self.clip}")
        if self.threads < 0:
            raise ValueError(f"trainer.threads must not be negative, got {self.threads}")
        if not (self.profiler is None or self.profiler in PROFILERS or _is_profiler(self.profiler)):
            raise ValueError(
                f"trainer.profiler must be one of {', '.join(PROFILERS)}, null, or a node whose _target_ is a "
                f"Profiler of Lightning, got {self.profiler!r}"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"trainer.strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy}: averages, "
                "clipping and exports are those of whole networks"
            )

    @property
    def world(self) -> int:
        return int(self.devices) * self.num_nodes


@dataclass(frozen=True)
class CheckpointOptions:
    """Optimizer steps between checkpoints, and how many files are kept."""

    every: int
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(
                f"checkpoint.every and checkpoint.keep must be at least 1, got {self.every} and {self.keep}"
            )


@dataclass(frozen=True)
class LoggerOptions:
    """Optimizer steps per row, and what mirrors the rows: a function of `save_dir` that makes a Logger, or None."""

    every: int
    mirror: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"logger.every must be at least 1, got {self.every}")
        if self.mirror is not None and not callable(self.mirror):
            raise ValueError(
                "logger.mirror must be a node with _partial_: true, so that it is told the run folder when the run "
                f"starts, got {self.mirror!r}"
            )


@dataclass(frozen=True)
class Device:
    """What a stage that reads an export runs on.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu` or `mps`.
        devices: 1; images are drawn by one process.
        precision: `auto`, `bf16`, `fp32`, or None for that of the export (fp32 where bf16 is emulated).
        threads: torch threads; 0 leaves torch's choice.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    precision: str | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator must be one of {', '.join(ACCELERATORS)}, got {self.accelerator}"
            )
        if self.devices not in (1, "auto"):
            raise ValueError(f"trainer.devices must be 1 in this stage, got {self.devices}")
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(
                f"trainer.precision must be one of {', '.join(PRECISIONS)} or null, got {self.precision}"
            )
        if self.threads < 0:
            raise ValueError(f"trainer.threads must not be negative, got {self.threads}")


def prepare_process(options: TrainerOptions | Device) -> None:
    """Settings of the process. On a CPU with bf16, products outside of autocast round as coarsely, on a GPU not."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # we say ourselves what runs where
    if options.threads:
        torch.set_num_threads(options.threads)
        if isinstance(options, TrainerOptions) and options.world > 1:  # else Lightning shares the processors
            os.environ["OMP_NUM_THREADS"] = str(options.threads)
    coarse = options.precision == "bf16" and device_of(options).type == "cpu"
    torch.set_float32_matmul_precision("medium" if coarse else "highest")


def settled(options: TrainerOptions) -> TrainerOptions:
    """The options with `precision` as it will be here; warns of one that the hardware has to emulate."""
    device = device_of(options)
    if device.type == "mps" and is_first_process():
        print("note: trainer.accelerator=mps is untested: nobody has run this program on one", flush=True)
    if options.precision == "bf16" and not has_bf16(device.type) and is_first_process():
        print(
            f"warning: trainer.precision=bf16, but this {device.type} has no bf16 instructions and emulates "
            "them, many times slower than trainer.precision=fp32",
            flush=True,
        )
    return replace(options, precision=resolved(options.precision, device))


def device_of(options: TrainerOptions | Device) -> torch.device:
    """The device that the trainer will use in this process, for work before and after training."""
    if options.accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError(
                "trainer.accelerator=mps, but no MPS device is available; use trainer.accelerator=cpu"
            )
        return torch.device("mps")
    if options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", ranks()[1] % torch.cuda.device_count())
    if options.accelerator in ("gpu", "cuda"):
        raise ValueError(
            "trainer.accelerator=gpu, but no CUDA device is available; use trainer.accelerator=cpu"
        )
    return torch.device("cpu")


def check_devices(options: TrainerOptions) -> None:
    """Refuses more processes than devices, which Lightning would say when everything is encoded.

    Raises:
        ValueError: naming the option.
    """
    kind, asked = device_of(options).type, int(options.devices)
    if kind == "cuda" and asked > (here := torch.cuda.device_count()):
        raise ValueError(
            f"trainer.devices={asked}, and {here} can be seen here: set it to as many, or see CUDA_VISIBLE_DEVICES"
        )
    if kind == "cpu" and asked > 1 and options.accelerator == "auto" and is_first_process():
        print(
            f"note: no GPU can be seen here, so the {asked} processes of trainer.devices share the processors"
        )


def devices_here(accelerator: str, num_nodes: int) -> int:
    """What `trainer.devices=auto` means: the processes started for this machine, else its GPUs, else 1."""
    if launched():
        return max(1, launched() // max(1, num_nodes))
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1


def _is_profiler(value: object) -> bool:
    from lightning.pytorch.profilers import Profiler

    return isinstance(value, Profiler)
