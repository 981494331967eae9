"""Linear diffusions under one interface."""

from common.dynamics.base import LinearDynamics, Moments, Prior
from common.dynamics.basis import Basis, Fourier, Pixel
from common.dynamics.classic import CLD, VE, VP, SubVP
from common.dynamics.closed_form import ClosedForm
from common.dynamics.tabulated import ScalarPath, Tabulated

__all__ = [
    "CLD",
    "VE",
    "VP",
    "Basis",
    "ClosedForm",
    "Fourier",
    "LinearDynamics",
    "Moments",
    "Pixel",
    "Prior",
    "ScalarPath",
    "SubVP",
    "Tabulated",
]
