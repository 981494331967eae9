"""Linear diffusions under one interface."""

from common.dynamics.base import LinearDynamics, Moments
from common.dynamics.basis import Basis, Fourier, Pixel
from common.dynamics.classic import CLD, VE, VP, SubVP
from common.dynamics.closed_form import ClosedForm
from common.dynamics.edm import EDM
from common.dynamics.flow import Flow
from common.dynamics.prior import Prior
from common.dynamics.tabulated import ScalarPath, Tabulated

__all__ = [
    "CLD",
    "EDM",
    "VE",
    "VP",
    "Basis",
    "ClosedForm",
    "Flow",
    "Fourier",
    "LinearDynamics",
    "Moments",
    "Pixel",
    "Prior",
    "ScalarPath",
    "SubVP",
    "Tabulated",
]
