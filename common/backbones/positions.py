"""Where patches are: a fixed table of waves or learned vectors, interpolated on other grids."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

POSITION_SCALE = 64.0  # the fastest wave of a position table turns by this angle from one end of the grid to the other
MAX_PERIOD = 10_000.0


class SineCosinePosition(nn.Module):
    """A fixed table of waves along each axis of the grid; the time token gets zeros.

    Args:
        grid: patches along each axis.
        embed_dim: width E of a token, a multiple of 4.
        paper: the row meant for a patch goes to the token before it, and zeros to the last patch.
    """

    table: Tensor

    def __init__(self, grid: tuple[int, ...], embed_dim: int, paper: bool) -> None:
        super().__init__()
        self.grid = grid
        self.rows_before_and_after = (0, 1) if paper else (1, 0)
        self.register_buffer("table", sine_cosine_table(grid, embed_dim).float(), persistent=False)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """(1 + L, E), what is added to the time token and the L patches of a grid."""
        return F.pad(resize(self.table, self.grid, grid), (0, 0, *self.rows_before_and_after))


class LearnedPosition(nn.Module):
    """A learned vector for each token.

    On another grid those of the patches are interpolated and the time token keeps its own. (The published code would
    interpolate over all tokens alike; no published run does.)

    Args:
        grid: patches along each axis.
        embed_dim: width E of a token.
        paper: without effect, the published order of tokens is ours here.
    """

    def __init__(self, grid: tuple[int, ...], embed_dim: int, paper: bool) -> None:
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.empty(1 + math.prod(grid), embed_dim))  # the time token first
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """(1 + L, E), what is added to the time token and the L patches of a grid."""
        return torch.cat([self.weight[:1], resize(self.weight[1:], self.grid, grid)])


POSITIONS: dict[str, type[SineCosinePosition] | type[LearnedPosition]] = {
    "sincos": SineCosinePosition,
    "learned": LearnedPosition,
}


def sine_cosine_table(grid: tuple[int, ...], embed_dim: int) -> Tensor:
    r"""Positions of the points of a grid as sines and cosines.

    Each axis has :math:`n = E / \text{axes}` features: with g from 0 at its first point to 1 at its last (a single
    point is at 0) and :math:`\omega_j = 64 \cdot 10000^{-2 j / n}`, first :math:`\sin g \omega_j` for
    j = 0, .., n / 2 - 1, then the cosines. The last axis comes first.

    Args:
        grid: points along each axis.
        embed_dim: number of features E, a multiple of 2 * axes.

    Returns:
        (L, E) float64, the L points in row-major order.
    """
    half = embed_dim // (2 * len(grid))
    frequency = POSITION_SCALE * MAX_PERIOD ** (-torch.arange(half, dtype=torch.float64) / half)
    axes = [waves(torch.linspace(0, 1, size, dtype=torch.float64), frequency) for size in grid]
    rows = torch.cartesian_prod(*(torch.arange(size) for size in grid)).reshape(-1, len(grid))
    return torch.cat([axis[rows[:, i]] for i, axis in reversed(list(enumerate(axes)))], dim=-1)


def resize(rows: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Interpolate linearly along each axis from the points of one grid to those of another.

    Points are the centres of equal cells; beyond the outer centres values stay constant. On a coarser grid the kernel
    widens, so that every old point counts.

    Args:
        rows: (L, E), values at the points of the old grid in row-major order.
        old: points along each of one or two axes, L in all.
        new: the same for the new grid.

    Returns:
        (L', E), values at the points of the new grid.
    """
    if old == new:
        return rows
    (height, _), size = ((1, *grid)[-2:] for grid in (old, new))  # a sequence is a plane of one row
    plane = rearrange(rows, "(h w) e -> 1 e h w", h=height).to(torch.promote_types(rows.dtype, torch.float32))
    resized = F.interpolate(plane, size, mode="bilinear", antialias=True)
    return rearrange(resized, "1 e h w -> (h w) e").to(rows.dtype)


def waves(position: Tensor, frequency: Tensor) -> Tensor:
    """(.., 2 F), sines, then cosines of positions (..) at F frequencies."""
    angle = position.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
