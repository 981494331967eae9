"""Spatial bases in which a dynamics is block-diagonal: pixels (identity) and Fourier modes.

A basis is orthonormal and real-linear. States are real tensors in pixel space everywhere. A formula of several terms
goes to the coefficients of its states, is computed there with :func:`times` and :func:`apply`, and comes back once.
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
        return self.combine((multiplier, x))

    def combine(self, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """Sum of states, every mode of each multiplied by its own factor, with one transform back for all.

        Args:
            terms: at least one pair of a multiplier (B or 1, *modes) and a state (B, C, *S).

        Returns:
            (B, C, *S) in the dtype of the states.
        """
        first, *rest = (times(multiplier, self.analysis(x)) for multiplier, x in terms)
        return self.synthesis(sum(rest, start=first))

    def mix(self, matrix: Tensor, z: Tensor) -> Tensor:
        """Apply a matrix over components, mode by mode.

        Args:
            matrix: (B or 1, I, A, *modes).
            z: (B, A, C, *S).

        Returns:
            (B, I, C, *S) in the dtype of z.
        """
        return self.synthesis(apply(matrix, self.analysis(z)))


def times(multiplier: Tensor, coefficients: Tensor) -> Tensor:
    """Coefficients (B, C, *modes), every mode multiplied by its own factor (B or 1, *modes)."""
    return align(multiplier, coefficients) * coefficients


def apply(matrix: Tensor, coefficients: Tensor) -> Tensor:
    """A matrix (B or 1, I, A, *modes) over the components of coefficients (B, A, C, *modes): (B, I, C, *modes)."""
    # (B, A, C, ..) against (B, I, A, 1, ..): complex numbers are pairs of reals, the matrix is real
    parts = torch.view_as_real(coefficients) if coefficients.is_complex() else coefficients
    matrix = matrix if not coefficients.is_complex() else matrix.unsqueeze(-1)
    batch = parts.shape[0]
    weights = align(matrix, parts.unsqueeze(1), lead=3).expand(batch, *(-1,) * parts.ndim)
    mixed = torch.einsum("bia...,ba...->bi...", weights, parts)
    return torch.view_as_complex(mixed.contiguous()) if coefficients.is_complex() else mixed


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
        found: Tensor = torch.fft.rfftn(x, dim=self.axes, norm="ortho")
        return found

    def synthesis(self, coefficients: Tensor) -> Tensor:
        found: Tensor = torch.fft.irfftn(coefficients, s=self.shape, dim=self.axes, norm="ortho")
        return found
