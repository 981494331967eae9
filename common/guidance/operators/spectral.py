"""Frequencies of grids, as the operators that multiply them count them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.dynamics.basis import Fourier
from common.guidance.operators.base import Operator
from common.refusal import Refusal


def squared_frequency(shape: Sequence[int], *, per_point: bool) -> Tensor:
    """Squared frequency of every mode of the half spectrum, in cycles per point or per grid, float64."""
    axes = [torch.fft.fftfreq(n, d=1.0 if per_point else 1 / n, dtype=torch.float64) for n in shape]
    axes[-1] = axes[-1][: shape[-1] // 2 + 1]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)


class Spectral(Operator):
    """Every mode of a periodic grid times a factor of its own; symmetric, so that it is its own adjoint.

    Args:
        multiplier: factors (*modes of the half spectrum), even in frequency.
        shape: the grid *S.
    """

    multiplier: Tensor

    def __init__(self, multiplier: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.basis = Fourier(tuple(shape))
        self.register_buffer("multiplier", multiplier, persistent=False)

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        if tuple(shape[1:]) != self.basis.shape:
            raise Refusal(f"{type(self).__name__} is for the grid {self.basis.shape}, samples have {tuple(shape)}")
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.basis.scale(self.multiplier.unsqueeze(0), x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)
