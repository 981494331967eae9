"""Time grids: functions of (dynamics, t_end, steps) to the times T = t_0 > t_1 > .. > t_steps = t_end."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.dynamics import LinearDynamics

Grid = Callable[[LinearDynamics, float, int], Tensor]
FINE = 4000  # cells in which a density of nodes is summed up
FLOOR, BUMP, WIDTH, REACH = 0.35, 2.0, 1.6, 10.0  # of the density of nodes around the scale of the data


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


def rho3(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Equal steps in t^(1/3): few evaluations where every mode has its own noise level."""
    start, end = dynamics.horizon ** (1 / 3), t_end ** (1 / 3)
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64, device=dynamics.device) ** 3
    return _exact_ends(times, dynamics, t_end)


def position(dynamics: LinearDynamics, t: Tensor) -> Tensor:
    """x at times (B,), the variable that densities of nodes are in: log sigma; log t where modes have levels apart."""
    return t.log() if dynamics.basis.modes else dynamics.log_sigma(t)


@dataclass(frozen=True)
class Density:
    """A grid whose nodes have a density in :func:`position`.

    Attributes:
        nodes: x, rising.
        values: the density there, above 0; a factor on all of them has no effect. It is linear between nodes, and
            constant beyond them.
    """

    nodes: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
        """Times (steps + 1,) from T to ``t_end``."""
        there = {"dtype": torch.float64, "device": dynamics.device}
        first, last = position(dynamics, torch.tensor([dynamics.horizon, t_end], **there))
        fine = torch.lerp(first, last, torch.linspace(0, 1, FINE + 1, **there))
        density = interpolate(fine, torch.tensor(self.nodes, **there), torch.tensor(self.values, **there))
        share = torch.nn.functional.pad(torch.cumulative_trapezoid(density), (1, 0))
        x = interpolate(torch.linspace(0, 1, steps + 1, **there), share / share[-1], fine)
        return _exact_ends(x.exp() if dynamics.basis.modes else dynamics.time_at(x), dynamics, t_end)


def interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear: values at ``nodes`` (N,), which rise, read at x (M,); constant beyond the ends."""
    right = torch.searchsorted(nodes, x.contiguous()).clamp(1, len(nodes) - 1)
    width = nodes[right] - nodes[right - 1]
    return torch.lerp(values[right - 1], values[right], ((x - nodes[right - 1]) / width).clamp(0, 1))


def data(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Steps in log sigma that are short where noise is as large as the data.

    Density ``FLOOR + BUMP exp(-(log sigma - log s)^2 / (2 WIDTH^2))``, s the deviation of the data.
    """
    centre = math.log(dynamics.data_std)
    away = torch.linspace(-REACH, REACH, 101, dtype=torch.float64)
    bump = FLOOR + BUMP * (-away.square() / (2 * WIDTH**2)).exp()
    return Density(tuple((centre + away).tolist()), tuple(bump.tolist()))(dynamics, t_end, steps)


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "log_time": log_time,
    "log_sigma": log_sigma,
    "rho3": rho3,
    "data": data,
}
