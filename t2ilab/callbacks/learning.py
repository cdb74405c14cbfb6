"""What callbacks read of the module that learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn


class Learning(Protocol):
    """The learner of every stage, see `t2ilab.training.learner.Learner` for what its attributes are."""

    student: nn.Module
    batch_size: int
    steps_done: int
    step_finished: bool
    grad_norm: Tensor
    lr: float

    @property
    def record(self) -> tuple[Mapping[str, Tensor], Tensor | None, str]: ...

    @property
    def device(self) -> torch.device: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def learning(module: LightningModule) -> Learning:
    """The module that a callback is given, as the learner that it is."""
    return cast(Learning, module)
