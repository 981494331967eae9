"""Sliced Wasserstein distance between features of samples and of real data."""

from common.metrics.compared import Compared
from common.metrics.points import sliced_w2_to
from common.metrics.real import Real
from common.metrics.stored import PointSet


class SlicedWasserstein(Compared):
    """Mean over random directions of the squared W2 distance of projected features."""

    names = ("sw",)
    better = -1
    judges = True
    about = "(0: equal laws; its bias falls as one over the number of samples: compare with other real ones)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return {"sw": sliced_w2_to(drawn, real.slices)}
