"""Frechet distance between features of samples and of real data; on Inception's it is the FID."""

from common.metrics.compared import Compared
from common.metrics.points import frechet_to
from common.metrics.real import Real
from common.metrics.stored import PointSet


class Frechet(Compared):
    """Squared Frechet distance of two normal laws with the moments of both sets of features."""

    names = ("fid",)
    better = -1
    about = "(0: equal moments; mostly bias below some 10,000 samples: compare with as many other real ones)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        half = real.root if len(drawn) > drawn.shape[1] else None  # fewer samples do without
        return {"fid": frechet_to(drawn, real.moments, half)}
