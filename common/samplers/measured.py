"""A time grid measured on a trained denoiser: dense where paths are curved, and where an error grows.

Along the angle (common/samplers/adams.py) an Euler step of length h in x, a variable of the grid, is wrong by
h^2 / 2 (d^2 w / dphi^2) (dphi / dx)^2. So a few samples are followed on a fine grid, and nodes get the density

    rho(x) = exp(tilt x) sqrt(rms over samples and modes of s (d^2 w / dphi^2) (dphi / dx)^2),    s the deviation of the data

smoothed over x, and some of a uniform one. Early errors grow on the way, by how much no path tells: the tilt is the one
of ``TILTS`` with which the same samples come nearest to their own ends in few evaluations. The second difference is that
of states, so a path costs one evaluation a step, and two states are kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.angle import Place, deviation
from common.samplers.grids import Density, position
from common.samplers.sampling import SOLVERS, default_solver, ending, sample

SAMPLES = 16  # that are followed
FINE = 64  # steps in which they are
NODES = 48  # of the density that is kept
SMOOTH = 0.6  # deviation of the smoothing, in x
FLOOR = 0.1  # of a uniform density
TILTS = (-0.15, 0.0, 0.15, 0.3, 0.45, 0.6)
TRIED = (7, 10)  # evaluations with which tilts are compared


def measured(
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    *,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    t_end: float | None = None,
    on_evaluation: Callable[[], None] = lambda: None,
) -> Density:
    t_end, name = ending(dynamics, t_end), default_solver(dynamics)
    curve = _Curvature(dynamics)

    def run(steps: int, grid: Density | None, callback=None) -> Tensor:
        return sample(
            dynamics,
            denoiser,
            shape,
            solver=name,
            steps=steps,
            seeds=seeds,
            labels=labels,
            grid=grid,
            t_end=t_end,
            callback=callback,
        ).x

    ends = run(FINE, None, lambda _, time, z, __: curve.add(time, z))
    x, values = curve.density()
    best = None
    for tilt in TILTS:
        grid = _kept(dynamics, x, values, tilt)
        errors = [(run(steps, grid) - ends).square().mean().sqrt() for steps in TRIED]
        score = sum(math.log(e) for e in errors)
        print(tilt, [round(float(e), 4) for e in errors])
        if best is None or score < best[0]:
            best = (score, grid, tilt)
    print("best", best[2])
    return best[1]


class _Curvature:
    def __init__(self, dynamics):
        self.dynamics, self.spread = dynamics, deviation(dynamics)
        self.last = []
        self.found = []

    def add(self, time: float, z: Tensor) -> None:
        t = torch.tensor([time], dtype=torch.float64, device=z.device)
        place = Place(self.dynamics, t); radius, phi = place.radius, place.angle
        basis = self.dynamics.basis
        w = basis.analysis(z.squeeze(1)) * (1 / radius)
        x = position(self.dynamics, t)
        self.last = [*self.last[-2:], (x, phi, w)]
        if len(self.last) == 3:
            (xa, pa, a), (xb, pb, b), (xc, pc, c) = self.last
            bend = ((c - b) / (pc - pb) - (b - a) / (pb - pa)) / (pc - pa) * 2
            speed = (pc - pa) / (xc - xa)
            found = (self.spread * bend * speed.square()).abs().square().mean().sqrt().sqrt()
            self.found.append((xb, found.reshape(1)))

    def density(self):
        x, d = (torch.cat(c).double() for c in zip(*self.found))
        return x.flip(0), d.flip(0)


def _kept(dynamics, x, values, tilt):
    nodes = torch.linspace(float(x[0]), float(x[-1]), NODES, dtype=torch.float64)
    kernel = (-((nodes[:, None] - x[None]) ** 2) / (2 * SMOOTH**2)).exp() * torch.gradient(x)[0]
    smooth = (kernel @ values) / kernel.sum(1)
    tilted = smooth * (tilt * nodes).exp()
    tilted = tilted / tilted.mean()
    return Density(tuple(nodes.tolist()), tuple(((1 - FLOOR) * tilted + FLOOR).tolist()))
