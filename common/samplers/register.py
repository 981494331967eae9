"""The solvers by name, and which of them and what path suit a dynamics."""

from common.dynamics import LinearDynamics
from common.samplers.base import Solver
from common.samplers.euler import Euler, EulerMaruyama
from common.samplers.exponential import Exponential1, Exponential2
from common.samplers.predictor_corrector import PredictorCorrector

SOLVERS: dict[str, type[Solver]] = {
    "em": EulerMaruyama,
    "euler": Euler,
    "exp1": Exponential1,
    "exp2": Exponential2,
    "pc": PredictorCorrector,
}

MODES = {"sde": "em", "ode": "euler"}  # the names of GFDM's published sampler


def path_of(solver: type[Solver], dynamics: LinearDynamics) -> LinearDynamics:
    """What a solver reverses: the full state, or the scalar path if it works best there and sigma never falls."""
    return dynamics.scalar_path() if solver.path == "scalar" and dynamics.is_monotone else dynamics


def default_solver(dynamics: LinearDynamics, published: bool = False) -> str:
    """Name of the solver that suits a dynamics.

    Args:
        dynamics: what is reversed.
        published: as published instead, whatever the dynamics: Euler-Maruyama.

    Returns:
        A name of ``SOLVERS``: exp2 if sigma never falls in time, which that solver needs, else em.
    """
    return "exp2" if dynamics.is_monotone and not published else MODES["sde"]
