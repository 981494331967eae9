"""A solver named alone, with the steps it takes by default, returns the data under every process."""

import pytest

from common.dynamics import EDM, VP, Flow, LinearDynamics
from common.samplers import GRIDS, SOLVERS, PredictorCorrector
from gfdm.dynamics import FVP
from tests.samplers.fields import returned_law, smooth_field

FIELD = smooth_field((8,))


@pytest.mark.parametrize("solver", ["em", "euler", "exp2"])
@pytest.mark.parametrize("dynamics", [VP(), Flow(), EDM()], ids=["vp", "flow", "edm"])
def test_a_solver_on_its_own_grid_returns_the_data(dynamics: LinearDynamics, solver: str) -> None:
    """Variance of every mode at t_end, without sampling error, from the prior N(0, S(T))."""
    make = SOLVERS[solver]
    steps = 300 if make.default_steps > 300 else 50  # as good as the published 1,000, in a third of the time
    got = returned_law(dynamics, FIELD, make(), steps, t_end=dynamics.default_t_end)
    want = FIELD.at(dynamics, dynamics.default_t_end)
    assert (got.variance / want.variance - 1).abs().max() < 0.25
    assert ((got.mean - want.mean).abs() / want.variance.sqrt()).max() < 0.15


@pytest.mark.parametrize("name", ["em", "euler", "pc"])
def test_euler_steps_are_laid_as_the_dynamics_says(name: str) -> None:
    class Late(FVP):
        default_grid = "log_time"

    solver = SOLVERS[name]()
    assert solver.default_grid(VP()) is GRIDS["uniform"]
    assert solver.default_grid(EDM()) is GRIDS["log_sigma"]
    late = Late(0.9, 1)
    assert solver.default_grid(late) is solver.default_grid(late.scalar_path()) is GRIDS["log_time"]


def test_a_scalar_path_has_what_its_parent_says_of_the_law() -> None:
    class Other(FVP):
        default_prediction = "v"
        default_t_end = 0.01
        default_time_sampling = "lognormal"

    path = Other(0.9, 1).scalar_path()
    assert (path.default_prediction, path.default_t_end, path.default_time_sampling) == ("v", 0.01, "lognormal")


def test_pc_with_its_own_steps_returns_the_data_under_edm() -> None:
    """Equal steps in sigma would leave a thousand times the variance of the finest modes."""
    dynamics, steps = EDM(), PredictorCorrector.default_steps
    got = returned_law(dynamics, FIELD, PredictorCorrector(corrector="none"), steps, t_end=dynamics.default_t_end)
    assert (got.variance / FIELD.at(dynamics, dynamics.default_t_end).variance - 1).abs().max() < 0.15
