"""What is observed of a sample, one operator per file."""

from common.guidance.operators.base import Operator, check_adjoint
from common.guidance.operators.blur import Blur
from common.guidance.operators.downsample import Downsample
from common.guidance.operators.grey import Grey
from common.guidance.operators.lowpass import LowPass
from common.guidance.operators.mask import Mask
from common.guidance.operators.points import Points
from common.guidance.operators.spectral import Spectral

__all__ = ["Blur", "Downsample", "Grey", "LowPass", "Mask", "Operator", "Points", "Spectral", "check_adjoint"]
