"""Fixed sine-cosine positions of image tokens on grids of any size.

Shapes: N tokens of a grid, row by row; D width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2ilab.models.inputs import check_choice
from t2ilab.models.rope import check_heads

POSITIONS = ("sincos", "rope")  # what a network can use; the second ones are in rope.py


def sine_cosine(dim: int, rows: Tensor, columns: Tensor) -> Tensor:
    """2-D sine-cosine positions: the column in the first half of the dimensions, the row in the second.

    In each half [sin(c w_i) | cos(c w_i)] with w_i = 10^(-4 i / (dim/4)).

    Args:
        dim: D, divisible by 4.
        rows, columns: coordinates of the rows and of the columns of the grid, (H,) and (W,).
    Returns:
        (H * W, D), row by row, float32.
    Source: the fixed positions of DiT (Peebles & Xie 2023, arXiv 2212.09748).
    """
    if dim % 4:
        raise ValueError(
            f"2-D sine-cosine positions need a width divisible by 4, got {dim}: change model.width"
        )
    frequencies = torch.arange(dim // 4, dtype=torch.float64, device=rows.device) / (dim // 4)
    frequencies = 1.0 / 10_000.0**frequencies
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [coordinate.reshape(-1, 1) * frequencies for coordinate in (column, row)]
    return torch.cat([part for a in angles for part in (a.sin(), a.cos())], -1).float()


def grid_positions(
    dim: int,
    height: int,
    width: int,
    *,
    base: int,
    scale: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Positions whose coordinates run from 0 to base / scale on a grid of any size, finer or coarser; (N, D).

    Source: PixArt (Chen et al. 2023, arXiv 2310.00426), which scales so for higher resolutions.
    """
    rows, columns = (
        torch.arange(edge, dtype=torch.float32, device=device) / (edge / base) / scale
        for edge in (height, width)
    )
    return sine_cosine(dim, rows, columns)


def cropped_positions(
    dim: int, height: int, width: int, *, base: int, size: int, device: torch.device | str | None = None
) -> Tensor:
    """The middle `height` x `width` of a table of `size` x `size` positions from 0 to base; (N, D).

    Source: Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).
    Raises:
        ValueError: the grid is larger than the table.
    """
    if max(height, width) > size:
        raise ValueError(
            f"a grid of {height} x {width} patches exceeds the table of positions: raise model.position_max={size}"
        )
    rows, columns = (
        (torch.arange(edge, dtype=torch.float32, device=device) + (size - edge) // 2) / (size / base)
        for edge in (height, width)
    )
    return sine_cosine(dim, rows, columns)


class GridPositions(nn.Module):
    """Positions for the tokens of a grid; those of the usual grid are kept, others are made when needed.

    Args:
        dim: D.
        edge: tokens along an edge of the usual, square grid.
        base: range of the coordinates.
        scale: divides the coordinates of `grid_positions`.
        size: edge of the table that `cropped_positions` cuts from; None: `grid_positions`.
    """

    table: Tensor

    def __init__(
        self, dim: int, edge: int, *, base: int, scale: float = 1.0, size: int | None = None
    ) -> None:
        super().__init__()
        self.dim, self.edge, self.base, self.scale, self.size = dim, edge, base, scale, size
        self.register_buffer("table", self.made(edge, edge), persistent=False)

    def made(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """The positions of a grid, (N, D), computed."""
        if self.size is None:
            return grid_positions(self.dim, height, width, base=self.base, scale=self.scale, device=device)
        return cropped_positions(self.dim, height, width, base=self.base, size=self.size, device=device)

    def forward(self, height: int, width: int) -> Tensor:
        """The positions of a grid of `height` x `width` tokens, (N, D)."""
        if (height, width) == (self.edge, self.edge):
            return self.table
        return self.made(height, width, self.table.device)


def table_of(
    kind: str, *, width: int, heads: int, edge: int, size: int | None = None, base: int | None = None
) -> GridPositions | None:
    """Sine-cosine positions, or None for rotary ones, which need no table."""
    check_choice("positions", kind, POSITIONS)
    if (size is None) != (base is None) or (size is not None and kind == "rope"):
        raise ValueError(
            "model.position_max and model.position_base go together, and with model.positions=sincos; "
            f"got {size}, {base} and {kind}"
        )
    if kind == "rope":
        check_heads(width // heads)
        return None
    return GridPositions(width, edge, base=base or edge, size=size)
