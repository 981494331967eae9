"""Time grids: from T to t_end exactly, strictly falling, and equal steps in the variable they are named after."""

import pytest
import torch

from common.refusal import Refusal
from common.samplers import GRIDS, MEASURED, SOLVERS
from tests.dynamics.members import CLASSICAL, HEATS, build

NAMES = [*CLASSICAL, "fvp-0.9-2", "fvp-0.3-3", "fvp-0.1-5", "fve-0.9-2", "fve-0.3-3", "fvp-0.9-2-path", *HEATS]


@pytest.mark.parametrize("steps", [1, 2, 37])
@pytest.mark.parametrize("t_end", [1e-3, 0.2])
@pytest.mark.parametrize("grid", sorted(GRIDS.keys() - {MEASURED}))
@pytest.mark.parametrize("name", NAMES)
def test_ends_are_exact_and_times_fall(name, grid, t_end, steps):
    dynamics = build(name)
    times = GRIDS[grid](dynamics, t_end, steps)
    assert times.dtype == torch.float64
    assert times.shape == (steps + 1,)
    assert times[0].item() == dynamics.horizon
    assert times[-1].item() == t_end
    assert (times.diff() < 0).all()


def equal(steps: torch.Tensor) -> bool:
    return bool((steps - steps.mean()).abs().max() < 1e-8 * steps.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_equal_in_the_grids_own_variable(name):
    dynamics = build(name)
    variables = {
        "uniform": lambda t: t,
        "log_time": torch.log,
        "log_sigma": dynamics.log_sigma,
        "rho3": lambda t: t ** (1 / 3),
        "angle": lambda t: torch.atan2(dynamics.log_sigma(t).exp(), torch.tensor(dynamics.data_std)),
    }
    assert set(variables) == GRIDS.keys() - {"data", "decisive", MEASURED}  # those are graded: test_measured
    for grid, variable in variables.items():
        assert equal(variable(GRIDS[grid](dynamics, 1e-3, 50)).diff()), grid


def test_a_measured_grid_needs_a_measurement():
    with pytest.raises(Refusal, match="nothing was measured") as refused:
        GRIDS[MEASURED](build("vp"), 1e-3, 10)
    assert refused.value.argument == "grid"


@pytest.mark.parametrize(
    ("solver", "name", "grid"),
    [
        ("ab3", "vp", "data"),
        ("ab2", "heat-8", "rho3"),
        ("em", "fvp-0.9-2", "uniform"),
        ("euler", "heat-8", "uniform"),
        ("exp1", "vp", "log_sigma"),
        ("exp2", "fvp-0.9-2-path", "log_sigma"),
        ("exp2", "heat-8", "log_time"),
        ("exp1", "heat-4x6", "log_time"),
        ("renoise", "fve-0.9-2", "angle"),
        ("renoise", "heat-8", "angle"),
        ("renoise", "fvp-0.3-3-paper", "rho3"),  # a noise level that falls names no time
    ],
)
def test_default_grids(solver, name, grid):
    assert SOLVERS[solver]().default_grid(build(name)) is GRIDS[grid]
