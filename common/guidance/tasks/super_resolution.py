"""A sample from a coarser one."""

from common.data.spec import DataSpec
from common.guidance.operators import Downsample, Operator
from common.guidance.tasks.base import Task
from common.refusal import Refusal, require


class SuperResolution(Task):
    """Means over blocks of points are observed, as a camera or a coarser grid has them.

    Args:
        downsample: points along each axis that are averaged into one; it divides the sides of the samples.

    Raises:
        Refusal: for a number below 2.
    """

    def __init__(self, downsample: int = 2) -> None:
        require(downsample >= 2, "downsample", "at least 2", downsample)
        self.downsample = downsample

    def operator(self, spec: DataSpec, count: int) -> Operator:
        if any(side % self.downsample for side in spec.grid):
            raise Refusal(f"{self.downsample} does not divide the sides of samples of shape {spec.shape}", "downsample")
        return Downsample(self.downsample)
