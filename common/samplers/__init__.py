"""Solvers of the reverse process, time grids and reproducible noise."""

from common.samplers.base import Posterior, Solver
from common.samplers.grids import GRIDS, Grid
from common.samplers.noise import NoiseSource
from common.samplers.predictor_corrector import CORRECTORS, PREDICTORS, PredictorCorrector
from common.samplers.sampling import SOLVERS, SampleResult, sample

__all__ = [
    "CORRECTORS",
    "GRIDS",
    "PREDICTORS",
    "SOLVERS",
    "Grid",
    "NoiseSource",
    "Posterior",
    "PredictorCorrector",
    "SampleResult",
    "Solver",
    "sample",
]
