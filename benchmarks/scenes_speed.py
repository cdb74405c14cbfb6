"""How many images of the synthetic data set a core renders and judges a second: python benchmarks/scenes_speed.py

Processor time, not wall time, of 500 images of the subset `general` with objects anywhere, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from t2ilab.data.scenes import judge_batch, render_batch, sample_scene
from t2ilab.data.scenes.sampler import MOST_JITTER

IMAGES, ROUNDS = 500, 9


def seconds(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    """Processor time of one call, and what it returned."""
    start = time.process_time()
    result = function(argument)
    return time.process_time() - start, result


def main() -> None:
    torch.set_num_threads(1)
    truths = [sample_scene("general", "train", index, 0, jitter=MOST_JITTER) for index in range(IMAGES)]
    times: dict[str, list[float]] = {"render": [], "judge": []}
    for _ in range(ROUNDS):
        spent, images = seconds(render_batch, truths)
        times["render"].append(spent)
        times["judge"].append(seconds(judge_batch, images)[0])
    for name, spent in times.items():
        best, median = IMAGES / min(spent), IMAGES / statistics.median(spent)
        print(f"{name:6s} {best:6.0f} images/s at best, {median:6.0f} in the median")


if __name__ == "__main__":
    main()
