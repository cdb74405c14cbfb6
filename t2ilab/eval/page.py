"""Self-contained HTML pages: style, charts and images are inside; they follow the reader's light or dark mode."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from t2ilab.eval.answer import name
from t2ilab.eval.gallery import thumbnail

if TYPE_CHECKING:
    from jinja2 import Environment

TITLES = {  # of metrics
    "judge/overall": "Prompt accuracy",
    "compose/overall": "Unseen combinations",
    "other_noise/overall": "Another draw of noise",
    "fd_clip": "Frechet distance",
    "kid_clip": "Kernel distance",
    "clip_score": "CLIP score",
    "diversity": "Diversity",
    "loss/heldout": "Held-out loss",
    "loss/train": "Loss on training images",
    "loss/heldout_old": "Held-out loss, data of the model before",
    "teddy/overall": "Teddy bears",
    "style": "Style, 0 grainy to 1 fully lit",
    "saturation": "Saturation",
    "high_frequency": "Energy at high frequencies",
    "drift": "Drift of the prediction from the start",
    "reconstruction/psnr": "Reconstruction by the autoencoder",
    "close_calls": "Close calls of the judge",
    "reward/trained": "Reward that was trained on",
    "reward/accuracy": "Accuracy on held-out pairs",
    "reward/best_accuracy": "Accuracy, best possible",
    "reward/expected_accuracy": "Accuracy in expectation over the known odds",
    "reward/expected_best": "Accuracy in expectation, best possible",
    "reward/nll": "Negative log-likelihood at the fitted temperature",
    "reward/nll_raw": "Negative log-likelihood",
    "reward/ece": "Calibration error",
    "reward/temperature": "Fitted temperature",
    "reward/position_bias": "Bias for the first image of a pair",
    "reward/length_bias": "Correlation with the length of the prompt",
    "reward/saturation_bias": "Rise of the score with saturation, in its std",
}


def page(template: str, **values: Any) -> str:
    """A page of `templates/`, in which a value that is missing is an error."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    """It keeps the compiled templates: compiling takes longer than writing a page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("t2ilab.eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, percent=_percent)
    return environment


def data_uri(image: np.ndarray, side: int) -> str:
    """A uint8 (h, w, 3) image for an <img>: PNG while it is small, else WebP, several times smaller."""
    from PIL import Image

    small = thumbnail(image, side)
    kind = "png" if max(small.shape[:2]) <= 64 else "webp"
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def title_of(key: str) -> str:
    """What a metric is called on a page."""
    if key in TITLES:
        return TITLES[key]
    suite, _, task = key.rpartition("/")
    if f"{suite}/overall" in TITLES:
        return f"{TITLES[f'{suite}/overall']}, {name(task)}"
    return key.replace("loss/t", "Held-out loss, t ") if key.startswith("loss/t") else key


def _percent(share: float) -> str:
    """A position in a chart: kept inside it."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
