"""Renoising: an answer is a sample, noised to a lower level and answered again (arXiv 2303.01469, algorithm 1).

For networks that answer any point of a path with the path's end, as --objective consistency makes them:

    x = D(v_T, T);    for t_1 > t_2 > ..:    x = D(w . z, t) with z = Z_t given x0 = x, from fresh white noise

A state of several components is drawn as a whole, so noise levels may also fall in time.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.base import Posterior, Solver
from common.samplers.grids import LISTED, Given, Grid, angle, listed, measured, rho3


class Renoise(Solver):
    """x0_hat, noised to the next time, x0_hat again: as many evaluations as steps, and the last x0_hat is the sample.

    Args:
        times: times at which samples are noised again, falling from below T to above t_end, e.g. 0.6,0.3; n of them are
            n + 1 evaluations (default: those of the grid)

    Raises:
        Refusal: for times that do not fall.
    """

    order = 1
    stochastic = True
    path = "scalar"
    default_steps = 2
    clips = True
    renoises = True

    def __init__(self, times: tuple[float, ...] | None = None) -> None:
        if times is not None and not (all(map(math.isfinite, times)) and all(a > b for a, b in pairwise(times))):
            raise Refusal(f"must be finite and fall, each below the one before, got {listed(times)}", "times")
        self.times = None if times is None else tuple(map(float, times))

    @classmethod
    def refuse_idle(cls, given: Mapping[str, object]) -> None:
        """Refuse what contradicts given times."""
        times = given.get("times")
        if not isinstance(times, tuple | list):
            return
        if given.get("grid") is not None:
            raise Refusal("and --times exclude each other; leave one of them out", "grid")
        for name in ("steps", "nfe"):
            if given.get(name) not in (None, len(times) + 1):
                raise Refusal(
                    f"{given[name]} contradicts --times {listed(times)}, which takes {len(times) + 1} evaluations; "
                    "leave it out",
                    name,
                )

    @property
    def own_steps(self) -> int:
        """One more than the times that were given."""
        return self.default_steps if self.times is None else len(self.times) + 1

    def extent(self, steps: int | None) -> str:
        """Its evaluations, and the times that were given, unless they are more than a name holds."""
        times = self.times or ()
        return "-".join([str(steps), *(f"{time:g}" for time in times if len(times) <= LISTED)])

    def draws(self, components: int) -> int:
        """Noise of the whole state."""
        return components

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """The given times; else as measured on the run, else equal steps of the angle of the noise level."""
        if self.times is not None:
            return Given(self.times)
        if dynamics.node_density is not None:
            return measured
        return angle if dynamics.is_monotone else rho3

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Refuse another grid beside given times."""
        if self.times is not None and self.times != tuple(times[1:-1].tolist()):
            raise Refusal(f"and times {listed(self.times)} of the solver exclude each other", "grid")

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        x0 = posterior(z, t).to(z.dtype)
        return path_from(dynamics, x0, s) if noise is None else noised(dynamics, x0, s, noise)


def noised(dynamics: LinearDynamics, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw the whole state given samples.

    Args:
        dynamics: the process.
        x0: samples (B, C, *S).
        t: time (1,) float64.
        noise: white noise (B, C, *S), or (B, A, C, *S) for several components.

    Returns:
        z, (B, A, C, *S).
    """
    return dynamics.sample_state(x0, t, noise.reshape(len(x0), dynamics.num_components, *x0.shape[1:]))


def path_from(dynamics: LinearDynamics, x0: Tensor, t: Tensor) -> Tensor:
    """The state (B, A, C, *S) on the mean path whose data component at a time is x0 (B, C, *S): M x0 / m."""
    if dynamics.num_components == 1:
        return x0.unsqueeze(1)
    law = dynamics.moments(t)
    return dynamics.basis.mix((law.mean / law.scale.unsqueeze(1)).unsqueeze(2), x0.unsqueeze(1))
