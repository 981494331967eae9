"""Time grids: functions of (dynamics, t_end, steps) to the times T = t_0 > t_1 > .. > t_steps = t_end."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from common.dynamics import LinearDynamics

Grid = Callable[[LinearDynamics, float, int], Tensor]


def _exact_ends(times: Tensor, dynamics: LinearDynamics, t_end: float) -> Tensor:
    times[0], times[-1] = dynamics.horizon, t_end
    return times


def uniform(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Equal steps in time, as published (GFDM's sampler), but ending exactly at ``t_end``."""
    times = torch.linspace(dynamics.horizon, t_end, steps + 1, dtype=torch.float64, device=dynamics.device)
    return _exact_ends(times, dynamics, t_end)


def log_time(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Equal steps in log t: the choice where every mode has its own noise level (heat dynamics)."""
    times = torch.linspace(
        math.log(dynamics.horizon), math.log(t_end), steps + 1, dtype=torch.float64, device=dynamics.device
    ).exp()
    return _exact_ends(times, dynamics, t_end)


def log_sigma(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Equal steps in the log noise level of the dynamics (DPM-Solver, arXiv 2206.00927, section 3.4)."""
    ends = dynamics.log_sigma(torch.tensor([dynamics.horizon, t_end], dtype=torch.float64, device=dynamics.device))
    fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=dynamics.device)
    levels = torch.lerp(ends[0], ends[1], fractions)
    return _exact_ends(dynamics.time_at(levels), dynamics, t_end)


GRIDS: dict[str, Grid] = {"uniform": uniform, "log_time": log_time, "log_sigma": log_sigma}
