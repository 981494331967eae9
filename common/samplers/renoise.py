"""Renoising: an answer is a sample, noised to a lower level and answered again (arXiv 2303.01469, algorithm 1).

For networks tuned by ``--objective consistency``, whose answer at any point of a path is the path's end:

    x = D(v_T, T);    for t_1 > t_2 > ..:    x = D(m(t) x + sc(t) xi, t)      with fresh white noise xi
"""

from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid, for_few


class Renoise(Solver):
    """x0_hat, noised to the next time, x0_hat again: as many evaluations as steps."""

    order = 1
    stochastic = True
    path = "scalar"
    default_steps = 2
    clips = True

    def draws(self, components: int) -> int:
        """Noise of the whole state."""
        return components

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        return for_few(dynamics)

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        x0 = posterior(z, t)
        if noise is None:
            return x0.unsqueeze(1).expand_as(z)
        noise = noise.unsqueeze(1) if dynamics.num_components == 1 else noise
        return dynamics.sample_state(x0, s.expand(len(x0)), noise)
