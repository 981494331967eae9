"""Precision, recall, density and coverage of features of samples among those of real data."""

from torch import Tensor

from common.metrics.compared import Compared
from common.metrics.points import NEIGHBOURS, manifolds


class Manifolds(Compared):
    """Shares of samples that look real, and of real data that samples look like, by balls to the fifth neighbour."""

    least = NEIGHBOURS + 1
    better = 1
    about = "(precision, density: as good as real ones; recall, coverage: as varied; compare at equal numbers only)"

    def figures(self, drawn: Tensor, real: Tensor) -> dict[str, float]:
        return manifolds(drawn, real)._asdict()
