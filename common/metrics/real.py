"""Features of samples and of real data, with what several figures need of the latter."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from common.metrics.points import NEIGHBOURS, Moments, kernel_mean, moments, radii, root, slices
from common.metrics.stored import PointSet


class Real:
    """Features of real data, and what is computed of them once.

    Args:
        points: (M, D).
    """

    def __init__(self, points: PointSet) -> None:
        self.points = points

    def holds(self, count: int) -> bool:
        """Whether there are so many points."""
        return len(self.points) >= count

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance."""
        return moments(self.points)

    @cached_property
    def root(self) -> Tensor:
        """Square root of the covariance."""
        return root(self.moments.cov)

    @cached_property
    def kernel(self) -> float:
        """Mean of KID's kernel over all pairs."""
        return kernel_mean(self.points)

    @cached_property
    def slices(self) -> Tensor:
        """Quantiles (K, Q) of projections onto random directions."""
        return slices(self.points)

    @cached_property
    def radii(self) -> Tensor:
        """Distances (M,) to the fifth neighbour."""
        return radii(self.points, NEIGHBOURS)


class OfMoments(Real):
    """Real data of whose features moments alone are known.

    Args:
        known: the moments.
    """

    def __init__(self, known: Moments) -> None:
        super().__init__(torch.empty(0, len(known.mean)))
        self.moments = known  # in place of computed ones

    def holds(self, count: int) -> bool:
        return True  # of as many as it took: whoever made the file has looked


@dataclass(frozen=True, eq=False)
class Points:
    """What a metric of features compares.

    Attributes:
        drawn: (N, D) of samples.
        real: of the real samples that they are compared with.
        fresh: (M, D) of real samples that are none of those: what a perfect model would draw.
    """

    drawn: PointSet
    real: Real
    fresh: PointSet
