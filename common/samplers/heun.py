"""Heun's method along the angle: the probability-flow ODE of one component, mode by mode, by trapezoids.

    w_s = w_t + (phi_s - phi_t) (V_t + V_s) / 2      (:mod:`common.samplers.angle`)

V_s is the slope at the end of an Euler step. EDM (arXiv 2206.00364, algorithm 1) takes it along sigma, where slopes are
not bounded.
"""

from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers.angle import AngleSolver, Place
from common.samplers.base import Posterior


class Heun(AngleSolver):
    """Euler's step, then once more with the mean of the slopes at both of its ends."""

    evaluations = 2

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        basis, here, there = dynamics.basis, Place(dynamics, t), Place(dynamics, s)
        v = basis.analysis(z).squeeze(1)
        first = here.slope(v, basis.analysis(posterior(z, t)))
        ahead = here.carry(v, first, there)
        x0 = posterior(basis.synthesis(ahead).unsqueeze(1), s)
        slope = (first + there.slope(ahead, basis.analysis(x0))) / 2
        return basis.synthesis(here.carry(v, slope, there)).unsqueeze(1)
