"""Spatial bases in which a dynamics is block-diagonal: pixels (identity) and Fourier modes.

A basis is orthonormal and real-linear. States are real tensors in pixel space everywhere; a basis goes to its
coefficients, multiplies, and comes back.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from common.broadcast import align


class Basis(ABC):
    """An orthonormal basis of the data grid.

    Attributes:
        modes: shape of one set of per-mode coefficients; ``()`` where all pixels share one.
    """

    modes: tuple[int, ...]

    @abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """Real states (.., *S) to coefficients (.., *S or half spectrum)."""

    @abstractmethod
    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Inverse of :meth:`analysis`; the result is real."""

    def scale(self, multiplier: Tensor, x: Tensor) -> Tensor:
        """Multiply every mode of x by its own factor.

        Args:
            multiplier: (B or 1, *modes).
            x: (B, C, *S).

        Returns:
            (B, C, *S) in the dtype of x.
        """
        coefficients = self.analysis(x)
        return self.synthesis(align(multiplier, coefficients) * coefficients)

    def mix(self, matrix: Tensor, z: Tensor) -> Tensor:
        """Apply a matrix over components, mode by mode.

        Args:
            matrix: (B or 1, I, A, *modes).
            z: (B, A, C, *S).

        Returns:
            (B, I, C, *S) in the dtype of z.
        """
        coefficients = self.analysis(z)
        # (B, A, C, ..) against (B, I, A, 1, ..): complex numbers are pairs of reals, the matrix is real
        parts = torch.view_as_real(coefficients) if coefficients.is_complex() else coefficients
        matrix = matrix if not coefficients.is_complex() else matrix.unsqueeze(-1)
        batch = parts.shape[0]
        weights = align(matrix, parts.unsqueeze(1), lead=3).expand(batch, *(-1,) * parts.ndim)
        mixed = torch.einsum("bia...,ba...->bi...", weights, parts)
        return self.synthesis(torch.view_as_complex(mixed.contiguous()) if coefficients.is_complex() else mixed)


class Pixel(Basis):
    """The identity: one coefficient for all pixels, any grid."""

    modes = ()

    def analysis(self, x: Tensor) -> Tensor:
        return x

    def synthesis(self, coefficients: Tensor) -> Tensor:
        return coefficients


class Fourier(Basis):
    """Orthonormal real FFT over the trailing axes, on any 1-D or n-D grid, even or odd.

    Per-mode factors must be even in frequency (f and -f share one): then the half spectrum says it all and every
    result is real.

    Args:
        shape: the data grid, e.g. (32, 32) or (8000,).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.axes = tuple(range(-len(self.shape), 0))
        self.modes = (*self.shape[:-1], self.shape[-1] // 2 + 1)

    def analysis(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(f"x must lie on the grid {self.shape} of the dynamics, got {tuple(x.shape)}")
        return torch.fft.rfftn(x, dim=self.axes, norm="ortho")

    def synthesis(self, coefficients: Tensor) -> Tensor:
        return torch.fft.irfftn(coefficients, s=self.shape, dim=self.axes, norm="ortho")
