"""Adams-Bashforth along the angle: the probability-flow ODE of one component, mode by mode, in few evaluations.

With r = sqrt(s^2 m^2 + sc^2) and phi = atan2(sc, s m), s the deviation of the data in a mode, w = v / r obeys

    w = cos(phi) x0 / s + sin(phi) eps,      dw / dphi = V = (s m / (r sc)) v - (r / (s sc)) x0_hat
    w_s = w_t + (phi_s - phi_t) sum_j a_j V_(t - j)

phi is bounded, so no mode overflows however little of the data is left in it; for Gaussian data of deviation s, V
is 0. The weights a_j are those of equal steps (Butcher, Numerical Methods for ODEs, section 24), times the step that is
really made: on graded grids that is far better at few evaluations than weights of unequal steps, and of order 2.
"""

from collections import deque

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.dynamics.basis import times
from common.refusal import Refusal
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid, data, rho3

WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))  # of the newest V first, by how many there are
FAINT = 1e-3  # of the largest deviation: what a mode is taken to have at least


class AdamsBashforth2(Solver):
    """The newest two slopes; the first step is Euler's."""

    order = 2
    path = "scalar"
    default_steps = 10
    clips = True
    memory = 2

    def __init__(self) -> None:
        self._slopes: deque[Tensor] = deque(maxlen=self.memory)

    def check(self, dynamics: LinearDynamics) -> None:
        """Refuse a state of several components, which has no angle."""
        if dynamics.num_components > 1:
            raise Refusal(
                f"{type(self).__name__} runs on one component, got {dynamics.num_components} of {dynamics}: take its "
                "scalar_path() or, if its noise level falls in time, --solver exp1 or marginals='exact'",
                "solver",
            )

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Dense at the scale of the data; in t^(1/3) where every mode has a noise level of its own."""
        return rho3 if dynamics.basis.modes else data

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Nothing is remembered of an earlier run."""
        self._slopes.clear()

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        analysis, spread = dynamics.basis.analysis, deviation(dynamics)
        near, std, radius, angle = _angle(dynamics, spread, t)
        _, _, radius_s, angle_s = _angle(dynamics, spread, s)
        v, x0 = analysis(z).squeeze(1), analysis(posterior(z, t))
        self._slopes.appendleft(times(near / (radius * std), v) - times(radius / (spread * std), x0))
        slope = torch.zeros_like(v)
        for a, past in zip(WEIGHTS[len(self._slopes) - 1], self._slopes, strict=True):
            slope = slope + a * past
        moved = times(radius_s / radius, v) + times(radius_s * (angle_s - angle), slope)
        return dynamics.basis.synthesis(moved).unsqueeze(1)


class AdamsBashforth3(AdamsBashforth2):
    """The newest three slopes: also of order 2, with a smaller constant."""

    memory = 3


def deviation(dynamics: LinearDynamics) -> Tensor:
    """s (*modes): the data's deviation in every mode where the prior knows it mode by mode, else 1."""
    variance = dynamics.prior.variance
    if not (dynamics.basis.modes and variance.ndim):
        return torch.ones((), dtype=torch.float64, device=dynamics.device)
    found = variance.sqrt()
    return found.clamp_min(FAINT * found.max())


def _angle(dynamics: LinearDynamics, spread: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s m, sc, r and phi, each (1, *modes)."""
    law = dynamics.moments(t)
    near, std = spread * law.scale, law.std
    return near, std, (near.square() + std.square()).sqrt(), torch.atan2(std, near)
