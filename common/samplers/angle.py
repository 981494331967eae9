"""The angle of a one-component path, along which the probability-flow ODE is smooth and bounded, mode by mode.

With r = sqrt(s^2 m^2 + sc^2) and phi = atan2(sc, s m), s the deviation of the data in a mode, w = v / r obeys

    w = cos(phi) x0 / s + sin(phi) eps,      dw / dphi = V = (s m / (r sc)) v - (r / (s sc)) x0_hat

phi is bounded, so no mode overflows however little of the data is left in it; for Gaussian data of deviation s, V is 0.
"""

from functools import cached_property

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.dynamics.basis import times
from common.refusal import Refusal
from common.samplers.base import Solver
from common.samplers.grids import Grid, for_few

BEYOND = 1.25  # s over the level at which samples are told apart: best of .8 to 2
FAINT = 1e-3  # of the largest deviation: what a mode is taken to have at least


class Place:
    """Where on the circle every mode is at a time.

    Args:
        dynamics: a dynamics of one component.
        t: time (1,).
    """

    def __init__(self, dynamics: LinearDynamics, t: Tensor) -> None:
        law = dynamics.moments(t)
        self._spread = deviation(dynamics)
        self._near, self._std = self._spread * law.scale, law.std  # s m and sc, (1, *modes)

    @cached_property
    def radius(self) -> Tensor:
        """r, (1, *modes)."""
        return (self._near.square() + self._std.square()).sqrt()

    @cached_property
    def angle(self) -> Tensor:
        """phi, (1, *modes), in radians."""
        return torch.atan2(self._std, self._near)

    def slope(self, v: Tensor, x0: Tensor) -> Tensor:
        """V at the state v, both and x0_hat as coefficients (B, C, *modes)."""
        return times(self._near / (self.radius * self._std), v) - times(self.radius / (self._spread * self._std), x0)

    def carry(self, v: Tensor, slope: Tensor, there: "Place") -> Tensor:
        """The state at another place, reached along a slope; coefficients (B, C, *modes)."""
        return times(there.radius / self.radius, v) + times(there.radius * (there.angle - self.angle), slope)


def deviation(dynamics: LinearDynamics) -> Tensor:
    """s (*modes): the data's deviation in every mode where the prior knows it mode by mode.

    Else one number: 1, or what suits the level at which samples are told apart. From above it V is the slope over sigma
    (as in iPNDM, arXiv 2202.09778), from below that of the data.
    """
    variance = dynamics.prior.variance
    if dynamics.basis.modes and variance.ndim:
        found = variance.sqrt()
        return found.clamp_min(FAINT * found.max())
    known = dynamics.decision_level if not dynamics.basis.modes else None
    return torch.full((), 1.0 if known is None else BEYOND * known, dtype=torch.float64, device=dynamics.device)


class AngleSolver(Solver):
    """What solvers along the angle have in common."""

    order = 2
    path = "scalar"
    default_steps = 10
    clips = True

    def check(self, dynamics: LinearDynamics) -> None:
        """Refuse a state of several components, which has no angle."""
        if dynamics.num_components > 1:
            raise Refusal(
                f"{type(self).__name__} runs on one component, got {dynamics.num_components} of {dynamics}: if its "
                "noise level falls in time, take --solver exp1 or --marginals exact; in Python, its scalar_path()",
                "solver",
            )

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """As measured on the run, else dense at the scale of the data, else in t^(1/3) where modes differ."""
        return for_few(dynamics)
