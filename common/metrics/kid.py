"""Kernel distance between features of samples and of real data (KID): without bias at any number of samples."""

from common.metrics.compared import Compared
from common.metrics.points import kid
from common.metrics.real import Real
from common.metrics.stored import PointSet


class Kernel(Compared):
    """Unbiased squared MMD under the kernel (x.y / d + 1)^3."""

    names = ("kid",)
    better = -1
    judges = True
    about = "(0: equal laws, up to the third moments; below 0 by chance)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return {"kid": kid(drawn, real.points, real.kernel)}
