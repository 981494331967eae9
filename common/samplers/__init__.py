"""Solvers of the reverse process, time grids and reproducible noise."""

from common.samplers.base import Posterior, Solver
from common.samplers.grids import GRIDS, Grid
from common.samplers.noise import NoiseSource
from common.samplers.sampling import SOLVERS, SampleResult, sample

__all__ = ["GRIDS", "SOLVERS", "Grid", "NoiseSource", "Posterior", "SampleResult", "Solver", "sample"]
