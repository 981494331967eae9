"""Time grids: functions of (dynamics, t_end, steps) to the times T = t_0 > t_1 > .. > t_steps = t_end."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.refusal import Refusal

Grid = Callable[[LinearDynamics, float, int], Tensor]
MEASURED = "measured"
# which of these is the default follows from what is known of a run
OF_RUN = ("rho3", "data", "decisive", "angle", MEASURED)
FINE = 4000  # cells in which a density of nodes is summed up
FLOOR, BUMP, WIDTH, REACH = 0.35, 2.0, 1.6, 10.0  # of the density of nodes around the scale of the data
DECISIVE_FLOOR, DECISIVE_WIDTH = 0.24, 1.45  # of that around the level at which samples are told apart
LISTED = 4  # times that messages and names of folders hold
RAMP = 1e-3  # of the smallest cell of a density in steps: how far it rises or falls on either side of an edge


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
        device, ends = dynamics.device, (dynamics.horizon, t_end)
        first, last = position(dynamics, torch.tensor(ends, dtype=torch.float64, device=device))
        fine = torch.lerp(first, last, torch.linspace(0, 1, FINE + 1, dtype=torch.float64, device=device))
        nodes, values = torch.tensor([self.nodes, self.values], dtype=torch.float64, device=device)
        density = interpolate(fine, nodes, values)
        share = torch.nn.functional.pad(torch.cumulative_trapezoid(density), (1, 0))
        wanted = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=device)
        x = interpolate(wanted, share / share[-1], fine)
        return _exact_ends(x.exp() if dynamics.basis.modes else dynamics.time_at(x), dynamics, t_end)


def stepped(x: Sequence[float], shares: Sequence[float]) -> Density:
    """The density, constant between, that has given shares of nodes on either side of given positions.

    Args:
        x: positions, falling, the first and the last at the ends.
        shares: shares of nodes above each, rising from 0 to 1.
    """
    edges, parts = x[::-1], [b - a for a, b in pairwise(shares)][::-1]
    ramp = RAMP * min(b - a for a, b in pairwise(edges))
    values = [part / (b - a) for part, (a, b) in zip(parts, pairwise(edges), strict=True)]
    inner = ((edge - ramp, edge + ramp) for edge in edges[1:-1])
    nodes = [edges[0], *itertools.chain.from_iterable(inner), edges[-1]]
    return Density(tuple(nodes), tuple(value for value in values for _ in range(2)))


def interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear: values at ``nodes`` (N,), which rise, read at x (M,); constant beyond the ends."""
    right = torch.searchsorted(nodes, x.contiguous()).clamp(1, len(nodes) - 1)
    width = nodes[right] - nodes[right - 1]
    return torch.lerp(values[right - 1], values[right], ((x - nodes[right - 1]) / width).clamp(0, 1))


def data(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Steps in log sigma that are short where noise is as large as the deviation of the data."""
    return around(dynamics.data_std, FLOOR, WIDTH)(dynamics, t_end, steps)


def decisive(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Steps in log sigma that are short where samples are told apart, at the dynamics' ``decision_level``.

    That is more noise than deviation in large samples; where the level is not known, the deviation is taken.
    """
    centre = dynamics.data_std if dynamics.decision_level is None else dynamics.decision_level
    return around(centre, DECISIVE_FLOOR, DECISIVE_WIDTH)(dynamics, t_end, steps)


def around(centre: float, floor: float, width: float) -> Density:
    """The density ``floor + BUMP exp(-(log sigma - log centre)^2 / (2 width^2))`` of nodes over log sigma."""
    away = torch.linspace(-REACH, REACH, 101, dtype=torch.float64)
    bump = floor + BUMP * (-away.square() / (2 * width**2)).exp()
    return Density(tuple((math.log(centre) + away).tolist()), tuple(bump.tolist()))


def level_angle(dynamics: LinearDynamics, t: Tensor) -> Tensor:
    """phi = atan(sigma / s) at times (B,), in (0, pi / 2): the angle of the representative noise level.

    s is the level at which samples are told apart, or the deviation of the data where modes have levels apart or that
    level is not known; sigma = s is at pi / 4.
    """
    return (dynamics.log_sigma(t) - _log_scale(dynamics)).exp().atan()


def time_at_angle(dynamics: LinearDynamics, phi: Tensor) -> Tensor:
    """Inverse of :func:`level_angle`: times (B,) float64 of angles (B,)."""
    return dynamics.time_at(phi.tan().log() + _log_scale(dynamics))


def _log_scale(dynamics: LinearDynamics) -> float:
    level = None if dynamics.basis.modes else dynamics.decision_level
    return math.log(dynamics.data_std if level is None else level)


def angle(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Equal steps of :func:`level_angle`: the few times at which samples are renoised."""
    ends = level_angle(dynamics, torch.tensor([dynamics.horizon, t_end], dtype=torch.float64, device=dynamics.device))
    fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=dynamics.device)
    return _exact_ends(time_at_angle(dynamics, torch.lerp(ends[0], ends[1], fractions)), dynamics, t_end)


@dataclass(frozen=True)
class Given:
    """Times that somebody chose.

    Attributes:
        times: those between T and the end, falling.
    """

    times: tuple[float, ...]

    def __call__(self, dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
        """Times (steps + 1,) from T to ``t_end``.

        Raises:
            Refusal: for times that do not lie between, or another number of steps.
        """
        found = [dynamics.horizon, *self.times, t_end]
        if outside := [time for time in self.times if not dynamics.horizon > time > t_end]:
            raise Refusal(
                f"{listed(outside)}: must lie between t_end = {t_end:g} and T = {dynamics.horizon:g}", "times"
            )
        if steps != len(found) - 1:
            raise Refusal(f"{listed(self.times)} takes {len(found) - 1} steps, got {steps}", "times")
        return torch.tensor(found, dtype=torch.float64, device=dynamics.device)


def listed(times: Sequence[float]) -> str:
    """Times as a message has them: the first few of many."""
    return ",".join([*(f"{time:g}" for time in times[:LISTED]), *([".."] if len(times) > LISTED else [])])


def measured(dynamics: LinearDynamics, t_end: float, steps: int) -> Tensor:
    """Steps as they were measured on the run's own network (:mod:`common.samplers.measured`).

    Raises:
        Refusal: if nothing was measured.
    """
    if dynamics.node_density is None:
        raise Refusal("measured belongs to a trained run, and nothing was measured on this one", "grid")
    return Density(*dynamics.node_density)(dynamics, t_end, steps)


def for_few(dynamics: LinearDynamics) -> Grid:
    """The grid for few evaluations: measured, if it was; else by what is known of the data; rho3 for modes."""
    if dynamics.node_density is not None:
        return measured
    if dynamics.basis.modes:
        return rho3
    return data if dynamics.decision_level is None else decisive


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "log_time": log_time,
    "log_sigma": log_sigma,
    "rho3": rho3,
    "data": data,
    "decisive": decisive,
    "angle": angle,
    MEASURED: measured,
}
