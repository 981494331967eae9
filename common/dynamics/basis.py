"""Spatial bases in which a dynamics is block-diagonal: pixels (identity) and Fourier modes.

A basis is orthonormal and real-linear. States are real tensors in pixel space everywhere; a basis goes to its
coefficients, computes there, and comes back. Going and coming costs transforms, so whatever adds several terms adds
them as coefficients (:func:`scaled`, :func:`mixed`) and comes back once.
"""

from abc import ABC, abstractmethod
from functools import reduce
from operator import add

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
        """Sum of states, every mode of each multiplied by its own factor: one inverse transform for all.

        Args:
            terms: pairs of a multiplier (B or 1, *modes) and a state (B, C, *S), at least one; added in this order.

        Returns:
            (B, C, *S) in the dtype of the states.
        """
        return self.synthesis(reduce(add, (scaled(multiplier, self.analysis(x)) for multiplier, x in terms)))

    def mix(self, matrix: Tensor, z: Tensor) -> Tensor:
        """Apply a matrix over components, mode by mode.

        Args:
            matrix: (B or 1, I, A, *modes).
            z: (B, A, C, *S).

        Returns:
            (B, I, C, *S) in the dtype of z.
        """
        return self.combine_mixed((matrix, z))

    def combine_mixed(self, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """Sum of states, a matrix over components applied to each, mode by mode: one inverse transform for all.

        Args:
            terms: pairs of a matrix (B or 1, I, A, *modes) and a state (B, A, C, *S), at least one; A may differ from
                term to term. Added in this order.

        Returns:
            (B, I, C, *S) in the dtype of the states.
        """
        return self.synthesis(reduce(add, (mixed(matrix, self.analysis(z)) for matrix, z in terms)))


def scaled(multiplier: Tensor, coefficients: Tensor) -> Tensor:
    """:meth:`Basis.scale` of coefficients: (B or 1, *modes) times (B, C, *modes or *S)."""
    return align(multiplier, coefficients) * coefficients


def mixed(matrix: Tensor, coefficients: Tensor) -> Tensor:
    """:meth:`Basis.mix` of coefficients: (B or 1, I, A, *modes) and (B, A, C, ..) to (B, I, C, ..)."""
    # (B, A, C, ..) against (B, I, A, 1, ..): complex numbers are pairs of reals, the matrix is real
    parts = torch.view_as_real(coefficients) if coefficients.is_complex() else coefficients
    matrix = matrix if not coefficients.is_complex() else matrix.unsqueeze(-1)
    batch = parts.shape[0]
    weights = align(matrix, parts.unsqueeze(1), lead=3).expand(batch, *(-1,) * parts.ndim)
    product = torch.einsum("bia...,ba...->bi...", weights, parts)
    return torch.view_as_complex(product.contiguous()) if coefficients.is_complex() else product


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
