"""What a method may look at beside its student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import Guidance
from t2ilab.core.types import Condition
from t2ilab.latents.base import Autoencoder

Averaged = Callable[[], Mapping[str, Tensor]]
"""Gives the averaged (EMA) weights of the student by name; empty before the first update."""


@dataclass(frozen=True)
class Roles:
    """The networks around a student, none of which learns; a stage names those that it has.

    Attributes:
        teacher: the denoiser that is imitated.
        guidance: the rule by which the teacher is guided, or None.
        reference: the denoiser that the student shall stay near.
        averaged: the student's averaged weights.
        autoencoder: between latents and images; gradients pass through `decode`.
        texts: numbers of texts (B,) to their conditions.
        rewards: what scores images, by name.
    """

    teacher: Denoiser | None = None
    guidance: Guidance | None = None
    reference: Denoiser | None = None
    averaged: Averaged = dict
    autoencoder: Autoencoder | None = None
    texts: Callable[[Tensor], Condition] | None = None
    rewards: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


NOBODY = Roles()
