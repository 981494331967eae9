"""Euler-Maruyama on the reverse SDE and Euler on the probability-flow ODE (score-SDE, arXiv 2011.13456)."""

from torch import Tensor

from common.broadcast import align
from common.dynamics import LinearDynamics
from common.samplers.base import Posterior, Solver
from common.samplers.grids import GRIDS, Grid


class Euler(Solver):
    """z + dt (F z - 1/2 G G' s): the probability-flow ODE."""

    order = 1
    fewest_steps = 200

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Uniform in time, as published, or what the dynamics says, whose time may be no schedule."""
        return GRIDS[dynamics.default_grid]

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        drift = dynamics.reverse_drift(z, t, posterior(z, t), stochastic=self.stochastic)
        return z + align(s - t, z) * drift


class EulerMaruyama(Euler):
    """z + dt (F z - G G' s) + sqrt(|dt|) G xi: the reverse SDE; the last step is taken without noise."""

    stochastic = True
    fewest_steps = 100  # its noise corrects some of the error

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        advanced = super().step(dynamics, posterior, z, t, s, None)
        if noise is None:
            return advanced
        return advanced + align((t - s).sqrt(), z) * dynamics.apply_diffusion(noise, t)
