"""What is observed of a sample, one operator per file."""

from common.guidance.operators.base import Operator, check_adjoint
from common.guidance.operators.mask import Mask

__all__ = ["Mask", "Operator", "check_adjoint"]
