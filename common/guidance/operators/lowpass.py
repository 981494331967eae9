"""Low frequencies alone: deblurring as published, the band limit of a sound."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.guidance.operators.spectral import Spectral, squared_frequency
from common.refusal import require


class LowPass(Spectral):
    """The modes inside a disc, on the grid of the sample; a projection.

    With the spectrum shifted so that frequency 0 is at entry n // 2 = c of every axis, those with
    (i - c)^2 + (j - c)^2 < radius^2, as published.

    Args:
        radius: cycles per grid from which on nothing is known, above 0.
        shape: the grid *S, of one axis or more, even or odd.

    Raises:
        Refusal: for a radius out of range.
    """

    projector = True

    def __init__(self, radius: float, shape: Sequence[int]) -> None:
        require(radius > 0, "radius", "above 0", radius)
        inside = squared_frequency(shape, per_point=False) < radius**2
        super().__init__(inside.to(torch.float64), shape)

    def values(self, shape: Sequence[int]) -> Tensor:
        half = self.multiplier.flatten(0, -2).sum(0) if self.multiplier.ndim > 1 else self.multiplier
        once = half[0] if self.basis.shape[-1] % 2 else half[0] + half[-1]  # the half spectrum has others once of twice
        return shape[0] * (2 * half.sum() - once)
