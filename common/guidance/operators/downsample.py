"""Means over blocks: super-resolution."""

from collections.abc import Sequence

from torch import Tensor

from common.guidance.operators.base import Operator
from common.refusal import Refusal, require


class Downsample(Operator):
    """The mean over every block of ``factor`` points along every axis, (C, *S / factor).

    Args:
        factor: points of a block along an axis, at least 2.

    Raises:
        Refusal: for a smaller factor.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        require(factor >= 2, "factor", "at least 2", factor)
        self.factor = factor

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        channels, *grid = shape
        if any(n % self.factor for n in grid):
            raise Refusal(f"must divide every side of {tuple(grid)}, got {self.factor}", "factor")
        return (channels, *(n // self.factor for n in grid))

    def forward(self, x: Tensor) -> Tensor:
        # (B, C, n / f, f, ..): the mean over the second of every pair of axes
        pairs = [size for n in x.shape[2:] for size in (n // self.factor, self.factor)]
        found: Tensor = x.reshape(*x.shape[:2], *pairs).mean(dim=tuple(range(3, 2 * x.ndim - 2, 2)))
        return found

    def adjoint(self, y: Tensor) -> Tensor:
        found: Tensor = self.inverse(y) / self.factor ** (y.ndim - 2)
        return found

    def inverse(self, y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, dim=axis)
        return y
