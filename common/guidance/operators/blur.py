"""A Gaussian blur."""

import math
from collections.abc import Sequence

from common.guidance.operators.spectral import Spectral, squared_frequency
from common.refusal import require


class Blur(Spectral):
    """Convolution with a Gaussian on a periodic grid: the mode of frequency f is multiplied by exp(-2 (pi std f)^2).

    Args:
        std: deviation of the Gaussian in points, above 0 and finite.
        shape: the grid *S.

    Raises:
        Refusal: for a deviation out of range.
    """

    def __init__(self, std: float, shape: Sequence[int]) -> None:
        require(0 < std < math.inf, "std", "above 0 and finite", std)
        super().__init__((-2 * (math.pi * std) ** 2 * squared_frequency(shape, per_point=True)).exp(), shape)
