"""A small student and batches for the tests of terms."""

import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.models.dit import DiT

ROWS = 4


def dit(depth: int = 2) -> Denoiser:
    """4 x 4 latents of 3 channels, width 24; at its start."""
    torch.manual_seed(0)
    network = DiT(in_channels=3, input_size=4, patch_size=1, width=24, depth=depth, heads=2, text_dim=5)
    return Denoiser(network, Linear(), Velocity())


def awake(student: Denoiser) -> Denoiser:
    """The same with no layer at zero."""
    torch.manual_seed(1)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return student


def batch_of(features: torch.Tensor | None, rows: int = ROWS) -> Batch:
    rng = RowRng(5, 0, torch.arange(rows), rows)
    text = Condition(rng.normal("text", 3, 5), torch.ones(rows, 3, dtype=torch.bool))
    null = Condition(torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool))
    return Batch(rng.normal("x0", 3, 4, 4), text, null, {} if features is None else {"repa": features})


def rng_of(step: int = 0, rows: int = ROWS) -> RowRng:
    return RowRng(7, step, torch.arange(rows), rows)
