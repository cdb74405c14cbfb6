"""What changes in images although no prompt asks for it: numbers that tell a stage's side effects.

None of them is good or bad by itself (but for the style, of which the synthetic data set's judge knows the better
end); after a stage that trains on a reward or on few images they say what came along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from t2ilab.data.scenes.judge import Judgement

Probe = Callable[[Tensor, "Sequence[Judgement] | None"], np.ndarray]
"""(uint8 images (n, 3, h, w), what a judge saw in them, or None) -> (n,)"""


def saturation(images: Tensor, judged: Sequence[Judgement] | None = None) -> np.ndarray:
    """Mean saturation of each image, (max - min) / max over its channels (the S of HSV), in [0, 1]; (n,)."""
    levels = images.double()
    high, low = levels.amax(1), levels.amin(1)
    return torch.where(high > 0, (high - low) / high.clamp_min(1), 0.0).mean((1, 2)).cpu().numpy()


def high_frequency(images: Tensor, judged: Sequence[Judgement] | None = None) -> np.ndarray:
    """Share of the energy of each image's brightness at the upper half of its frequencies, in [0, 1]; (n,).

    sum |F(f)|^2 over max(|f_x|, |f_y|) >= 1/4 cycle per pixel, over the sum of all f but 0; 0 for a flat image.
    """
    brightness = images.double().mean(1)
    power = torch.fft.fft2(brightness).abs().square()
    power[:, 0, 0] = 0
    rows, columns = (torch.fft.fftfreq(edge, device=images.device).abs() for edge in brightness.shape[1:])
    high = torch.maximum(rows[:, None], columns[None, :]) >= 0.25
    return ((power * high).sum((1, 2)) / power.sum((1, 2)).clamp_min(1e-9)).cpu().numpy()


def style(images: Tensor, judged: Sequence[Judgement] | None) -> np.ndarray:
    """Quality of each image's style by the judge of the synthetic data set: 0 grainy, 0.5 flat, 1 fully lit; (n,)."""
    from t2ilab.data.scenes.score import quality

    return np.array([quality(judgement) for judgement in judged or ()])


ANY: dict[str, Probe] = {"saturation": saturation, "high_frequency": high_frequency}
JUDGED: dict[str, Probe] = {"style": style}
