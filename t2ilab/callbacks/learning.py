"""The attributes of a learner that callbacks read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn


class Learning(Protocol):
    """The learner of every stage; `t2ilab.training.learner.Learner` says what its attributes are."""

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
    """The module that Lightning hands to a callback, with the type of a learner."""
    return cast(Learning, module)
