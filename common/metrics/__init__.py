"""Figures about generated samples, one metric per file."""

from common.metrics.agreement import Agreement
from common.metrics.base import Evidence, Labelled, Metric
from common.metrics.compared import Compared
from common.metrics.evaluation import evaluate
from common.metrics.fid import Frechet
from common.metrics.inception_score import InceptionScore
from common.metrics.kid import Kernel
from common.metrics.moments import Moments
from common.metrics.nearest import Nearest
from common.metrics.prdc import Prdc
from common.metrics.spectrum import Spectrum
from common.metrics.sw import SlicedWasserstein
from common.metrics.sw_values import SlicedValues
from common.metrics.two_sample import TwoSample
from common.metrics.variety import Rke, Vendi

METRICS: dict[str, type[Metric]] = {
    "agreement": Agreement,
    "nearest": Nearest,
    "sw": SlicedWasserstein,
    "kid": Kernel,
    "prdc": Prdc,
    "fid": Frechet,
    "is": InceptionScore,
    "vendi": Vendi,
    "rke": Rke,
    "c2st": TwoSample,
    "spectrum": Spectrum,
    "moments": Moments,
    "sw_values": SlicedValues,
}
# agreement does not see what a class looks like, nearest what is plain noise: the others do; c2st sees faults that
# features do not show, and spectrum says where they are
DEFAULTS = ("agreement", "nearest", "sw", "kid", "prdc", "c2st", "spectrum")

__all__ = ["DEFAULTS", "METRICS", "Compared", "Evidence", "Labelled", "Metric", "evaluate"]
