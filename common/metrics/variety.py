"""Variety of samples without real data: effective numbers of different ones, Vendi score and RKE."""

from common.metrics.compared import Compared
from common.metrics.points import rke, vendi
from common.metrics.real import Real
from common.metrics.stored import PointSet


class Vendi(Compared):
    """Effective number of different samples, by their features' cosines."""

    names = ("vendi",)
    about = "(between 1 and the number of samples; it grows with that number: compare at equal ones)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return {"vendi": vendi(drawn)}


class Rke(Compared):
    """Effective number of modes, by their features' cosines; converges at fewer samples than Vendi's."""

    names = ("rke",)
    about = "(1 over the mean squared cosine of two samples: it sees frequent modes only)"

    def figures(self, drawn: PointSet, real: Real) -> dict[str, float]:
        return {"rke": rke(drawn)}
