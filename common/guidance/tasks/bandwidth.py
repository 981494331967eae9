"""High frequencies of a sound that has lost them, as over a telephone."""

from typing import ClassVar

from common.data.spec import DataSpec
from common.guidance.operators import Operator
from common.guidance.tasks.base import Task
from common.guidance.tasks.deblur import low_pass
from common.refusal import Refusal, require

KEPT = 0.25  # of the band, by default


class Bandwidth(Task):
    """Frequencies of a sound below a limit are observed.

    Args:
        cutoff: frequency in hertz from which on everything is lost (default: an eighth of the sampling rate, which is
            a quarter of the band).

    Raises:
        Refusal: for a frequency that is not above 0.
    """

    probe: ClassVar[DataSpec] = DataSpec("sound", (1, 64), (-1.0, 1.0), 64)

    def __init__(self, cutoff: float | None = None) -> None:
        require(cutoff is None or cutoff > 0, "cutoff", "above 0", cutoff)
        self.cutoff = cutoff

    def operator(self, spec: DataSpec, count: int) -> Operator:
        if spec.sample_rate is None:
            raise Refusal(
                f"bandwidth is for sounds, and samples of this run are {spec.kind}s; deblur does this", "task"
            )
        half = spec.sample_rate / 2
        cutoff = KEPT * half if self.cutoff is None else self.cutoff
        require(cutoff < half, "cutoff", f"below {half:g} Hz, half of the sampling rate", self.cutoff)
        seconds = spec.grid[0] / spec.sample_rate
        require(cutoff * seconds > 1, "cutoff", f"above {1 / seconds:g} Hz, one period of a sample", self.cutoff)
        return low_pass(cutoff * seconds, spec, "cutoff", f"{cutoff:g}")
