"""Whether targets are of a size that one loss can hold together."""

from __future__ import annotations

import torch

from t2ilab.core.path import Path
from t2ilab.core.prediction import Prediction

LARGEST = 30.0  # root mean square: the errors of a larger one drown all other times


def check_scale(space: Prediction, path: Path, *, low: float, high: float, who: str) -> None:
    """Refuses a path on which targets of this space are larger than 30 for unit data at a time in [low, high].

    Raises:
        ValueError: beginning with `who`, what regresses on them.
    """
    largest = float(space.scale(path, torch.tensor([low, high], dtype=torch.float64)).max())
    if not largest <= LARGEST:
        raise ValueError(
            f"{who} regresses on {type(space).__name__} on path={type(path).__name__}, whose scale reaches "
            f"{largest:.3g} between t = {low} and {high}: choose another loss or prediction, a bounded path "
            "(linear, trig) or a larger timestep.low"
        )
