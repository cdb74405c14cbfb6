"""Rotary positions in two dimensions (Su et al. 2021, arXiv 2104.09864; axial as in Flux).

The K dimensions of a head are K/2 pairs of neighbours (0, 1), (2, 3), ... (interleaved, as in Flux, Lumina and
Z-Image; the half-split layout pairs i with i + K/2 instead). Read as complex numbers, the first K/4 pairs are turned
by the row and the others by the column of the token,

    z_i -> z_i exp(1j row w_i),    z_{K/4 + i} -> z_{K/4 + i} exp(1j column w_i),    w_i = theta^(-2 i / (K/2)),

so the logit of a query and a key depends on the difference of their places only. Rows and columns count from 0
in steps of 1 on grids of any size. Text stands at (0, 0), where nothing is turned, so its order does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10_000.0  # of Flux and Lumina


def rotations(
    head_dim: int,
    height: int,
    width: int,
    *,
    theta: float,
    text: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """The unit complex numbers that the pairs of each token are multiplied with.

    Args:
        head_dim: K, divisible by 4.
        height, width: of the grid of image tokens, which come first, row by row.
        theta: the slowest pair turns theta^(1 - 4/K) times slower than the first.
        text: number of text tokens behind the image tokens.
    Returns:
        (height * width + text, K / 2) complex64; the angles are computed in float64.
    """
    double, count = torch.float64, head_dim // 4
    frequencies = theta ** (-torch.arange(count, dtype=double, device=device) / count)
    row, column = torch.meshgrid(
        torch.arange(height, dtype=double, device=device),
        torch.arange(width, dtype=double, device=device),
        indexing="ij",
    )
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in (row, column)], -1)
    if text:
        angles = torch.cat([angles, angles.new_zeros(text, 2 * count)])
    return torch.complex(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns the pairs of neighbours of x (B, H, S, K) by `rotation` ([B,] S, K/2), in float32; keeps the type.

    As one product of complex numbers this takes half the time of the sines and cosines written out, on the CPU.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation.unsqueeze(-3)).flatten(-2).to(x.dtype)


def check_heads(head_dim: int) -> None:
    """Refuses heads that cannot be cut into two axes of pairs."""
    if head_dim % 4:
        raise ValueError(
            f"rotary positions need model.width / model.heads divisible by 4, got heads of {head_dim}"
        )
