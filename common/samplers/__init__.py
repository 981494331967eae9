"""Solvers of the reverse process, time grids and reproducible noise."""

from common.samplers.base import Posterior, Solver
from common.samplers.correctors import CORRECTORS
from common.samplers.grids import GRIDS, MEASURED, OF_RUN, Grid
from common.samplers.noise import NoiseSource, check_seeds
from common.samplers.predictor_corrector import PREDICTORS, PredictorCorrector
from common.samplers.sampling import (
    MODES,
    SOLVERS,
    SampleResult,
    default_solver,
    ending,
    path_of,
    quick_solver,
    sample,
)

__all__ = [
    "CORRECTORS",
    "GRIDS",
    "MEASURED",
    "MODES",
    "OF_RUN",
    "PREDICTORS",
    "SOLVERS",
    "Grid",
    "NoiseSource",
    "Posterior",
    "PredictorCorrector",
    "SampleResult",
    "Solver",
    "check_seeds",
    "default_solver",
    "ending",
    "path_of",
    "quick_solver",
    "sample",
]
