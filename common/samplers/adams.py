"""Adams-Bashforth along the angle: the probability-flow ODE of one component, mode by mode, in few evaluations.

    w_s = w_t + (phi_s - phi_t) sum_j a_j V_(t - j)      (:mod:`common.samplers.angle`)

The weights a_j are those of equal steps (Butcher, Numerical Methods for ODEs, section 24), times the step that is
really made: on graded grids that is far better at few evaluations than weights of unequal steps, and of order 2.
"""

from collections import deque

import torch
from torch import Tensor

from common.dynamics import LinearDynamics
from common.samplers.angle import AngleSolver, Place
from common.samplers.base import Posterior

WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))  # of the newest V first, by how many there are


class AdamsBashforth2(AngleSolver):
    """The newest two slopes; the first step is Euler's."""

    memory = 2

    def __init__(self) -> None:
        self._slopes: deque[Tensor] = deque(maxlen=self.memory)

    def prepare(self, dynamics: LinearDynamics, times: Tensor) -> None:
        """Nothing is remembered of an earlier run."""
        self._slopes.clear()

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        basis, here, there = dynamics.basis, Place(dynamics, t), Place(dynamics, s)
        v = basis.analysis(z).squeeze(1)
        self._slopes.appendleft(here.slope(v, basis.analysis(posterior(z, t))))
        slope = torch.zeros_like(v)
        for a, past in zip(WEIGHTS[len(self._slopes) - 1], self._slopes, strict=True):
            slope = slope + a * past
        return basis.synthesis(here.carry(v, slope, there)).unsqueeze(1)


class AdamsBashforth3(AdamsBashforth2):
    """The newest three slopes: also of order 2, with a smaller constant."""

    memory = 3
