"""Features of real data, with what several figures need of them."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from common.metrics.points import NEIGHBOURS, Moments, kernel_mean, moments, radii


@dataclass(frozen=True, eq=False)
class Real:
    """Features of real data, and what is computed of them once.

    Attributes:
        points: (M, D).
    """

    points: Tensor

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance."""
        return moments(self.points)

    @cached_property
    def kernel(self) -> float:
        """Mean of KID's kernel over all pairs."""
        return kernel_mean(self.points)

    @cached_property
    def radii(self) -> Tensor:
        """Distances (M,) to the fifth neighbour."""
        return radii(self.points, NEIGHBOURS)
