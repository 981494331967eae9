"""Precision, recall, density and coverage of features of samples among those of real data."""

import math

from common.metrics.compared import Compared
from common.metrics.points import NEIGHBOURS, Manifolds, manifolds
from common.metrics.real import Real
from common.metrics.stored import PointSet


class Prdc(Compared):
    """Shares of samples that look real, and of real data that samples look like, by balls to the fifth neighbour."""

    names = Manifolds._fields
    least = NEIGHBOURS + 1
    bounds = {"precision": (0, 1), "recall": (0, 1), "density": (0, math.inf), "coverage": (0, 1)}  # noqa: RUF012
    better = 1
    about = "(precision, density: as good as real ones; recall, coverage: as varied; compare at equal numbers only)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return manifolds(drawn, real.points, of_real=real.radii)._asdict()
