"""A time grid measured on a trained denoiser: dense where paths are curved, and where an error grows.

Along the angle (:mod:`common.samplers.angle`) an Euler step of length h in x, a variable of the grid, misses by
h^2 / 2 (d^2 w / dphi^2) (dphi / dx)^2. Some samples are followed on a fine grid, and nodes get the density

    rho(x) = e^(tilt x) sqrt(rms of s (d^2 w / dphi^2) (dphi / dx)^2)      over samples, entries and modes

smoothed, and some of a uniform one. What an error grows by on its way to the end no path tells: so a few tilts, and
bumps around the level at which samples are told apart, are tried on the same samples, and the grid is the one with
which few evaluations bring them nearest to their ends. Differences are those of states: a path costs one evaluation a
step, and three states are kept.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.angle import Place, deviation
from common.samplers.grids import DECISIVE_FLOOR, DECISIVE_WIDTH, Density, Grid, around, position
from common.samplers.sampling import SOLVERS, default_solver, ending, sample

FOLLOWED = 32  # samples
FINE = 64  # steps in which they are followed
NODES, DIGITS = 32, 4  # of the density that is kept, and of its numbers after the point
SMOOTH = 0.6  # deviation of the smoothing, in x
FLOOR = 0.1  # share of a uniform density
TILTS = (-0.1, 0.0, 0.1, 0.2, 0.3)
BUMPS = (0.7, 1.0, 1.4)  # centres, over the level at which samples are told apart
TRIED = (7, 10)  # evaluations with which grids are compared
EVALUATIONS = FINE + sum(TRIED) * (len(TILTS) + len(BUMPS))  # of each sample, in all, at most
LEAST = 1e-12  # of a curvature or an error: paths may be straight


def measure(
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    *,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Density:
    """Measure a grid for the default solver; it serves the others along the angle, too.

    Args:
        dynamics: a dynamics of one component, or a ``scalar_path()``.
        denoiser: any callable (v, t, labels) to x0_hat.
        shape: data shape (B, C, *S) of the samples that are followed; 32 are enough.
        seeds: one per sample, other ones than those of samples that errors are told of.
        labels: classes (B,) int64, or None.
        on_step: called after every step, ``EVALUATIONS`` times at most.

    Returns:
        The grid.

    Raises:
        Refusal: if no solver along the angle applies, or a path is not finite.
    """
    name = default_solver(dynamics)
    SOLVERS[name]().check(dynamics)
    t_end, curvature = ending(dynamics, None), _Curvature(dynamics)

    def followed(steps: int, grid: Grid | None, seen: Callable[[float, Tensor], None] = lambda time, z: None) -> Tensor:
        def after(step: int, time: float, z: Tensor, x: Tensor) -> None:
            seen(time, z)
            on_step()

        end = sample(
            dynamics, denoiser, shape, solver=name, steps=steps, seeds=seeds, labels=labels, grid=grid, callback=after
        )  # fmt: skip
        return end.x

    ends = followed(FINE, None, curvature.add)
    if not bool(ends.isfinite().all()):
        raise Refusal("measured: samples of this network are not finite; take another grid", "grid")
    tried = [curvature.grid(tilt, t_end) for tilt in TILTS]
    if dynamics.decision_level is not None and not dynamics.basis.modes:
        tried += [around(centre * dynamics.decision_level, DECISIVE_FLOOR, DECISIVE_WIDTH) for centre in BUMPS]
    return min(tried, key=lambda grid: sum(_log_error(followed(steps, grid), ends) for steps in TRIED))


def _log_error(x: Tensor, ends: Tensor) -> float:
    each = (x - ends).square().flatten(1).mean(1).sqrt()  # a few samples that turn into others must not decide
    error = float(each.mean())
    return math.log(max(error, LEAST)) if math.isfinite(error) else math.inf


class _Curvature:
    """Curvature of paths over x, from states in a row."""

    def __init__(self, dynamics: LinearDynamics) -> None:
        self._dynamics, self._spread = dynamics, deviation(dynamics)
        self._states: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=3)  # x, phi and w
        self._x: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, time: float, z: Tensor) -> None:
        """Take the states (B, 1, C, *S) at the next time."""
        t = torch.tensor([time], dtype=torch.float64, device=z.device)
        place = Place(self._dynamics, t)
        w = self._dynamics.basis.analysis(z.squeeze(1).double()) / place.radius
        self._states.append((position(self._dynamics, t), place.angle, w))
        if len(self._states) == 3:
            (x0, phi0, w0), (x1, phi1, w1), (x2, phi2, w2) = self._states
            bend = _over(w2 - w1, phi2 - phi1) - _over(w1 - w0, phi1 - phi0)
            missed = 2 * self._spread * bend * (phi2 - phi0) / (x2 - x0).square()
            self._x.append(x1)
            self._values.append(missed.abs().square().mean().sqrt().sqrt().clamp_min(LEAST).reshape(1))

    def grid(self, tilt: float, t_end: float) -> Density:
        """The density of nodes, with a tilt."""
        ends = torch.tensor([t_end, self._dynamics.horizon], dtype=torch.float64, device=self._dynamics.device)
        low, high = position(self._dynamics, ends).tolist()
        x, values = torch.cat(self._x).flip(0).cpu(), torch.cat(self._values).flip(0).cpu()
        nodes = torch.linspace(low, high, NODES, dtype=torch.float64)
        width = torch.gradient(x)[0]
        kernel = width * torch.softmax(-(nodes.unsqueeze(1) - x).square() / (2 * SMOOTH**2), 1)
        density = (kernel @ values) / kernel.sum(1) * (tilt * (nodes - high)).exp()
        density = (1 - FLOOR) * density / density.mean() + FLOOR
        rounded = (torch.round(part, decimals=DIGITS).tolist() for part in (nodes, density))
        return Density(*map(tuple, rounded))


def _over(change: Tensor, angle: Tensor) -> Tensor:
    """Slopes of modes; 0 where the angle stands still, as in modes that hold nothing of the data yet."""
    return change / torch.where(angle == 0, torch.inf, angle)
