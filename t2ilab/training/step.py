"""What a step of training leaves behind, and how its gradients are clipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn


class Record(NamedTuple):
    """What a step has computed, for whoever logs it.

    Attributes:
        rows: values of the loss, its terms and the notes, detached, (n,) each, mostly one per row.
        t: the times of the loss, (n,), or None.
        main: which of the rows the noise bins are made of.
    """

    rows: Mapping[str, Tensor]
    t: Tensor | None = None
    main: str = "loss"


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scales gradients to the norm `largest` if theirs is larger (0: never); returns their norm before."""
    moving = [(p, p.grad) for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([gradient for _, gradient in moving]).detach()
    if largest:
        nn.utils.clip_grads_with_norm_([p for p, _ in moving], largest, norm)
    return norm
