"""Exponential multistep solvers of the probability-flow ODE on a scalar path, mode by mode.

With lambda = -log sigma and h the step in it, the linear part and a polynomial x0_hat are integrated exactly:

    v_s = (sc_s / sc_t) v_t + m_s (1 - e^-h) x0_hat + m_s (h - 1 + e^-h) (d x0_hat / d lambda) + ..

Order 1 is DDIM (arXiv 2010.02502), order 2 DPM-Solver++(2M) (arXiv 2211.01095), both with one evaluation a step.
"""

import torch
from torch import Tensor

from common.dynamics import LinearDynamics, Moments
from common.samplers.base import Posterior, Solver
from common.samplers.grids import Grid, log_sigma, log_time

STANDSTILL = 1e-8  # steps in lambda below this carry no slope


class Exponential1(Solver):
    """Order 1: x0_hat held constant over the step; exact for a point mass."""

    order = 1
    scalar_only = True

    def default_grid(self, dynamics: LinearDynamics) -> Grid:
        """Uniform in log sigma; in log t where every mode has a noise level of its own."""
        return log_time if dynamics.basis.modes else log_sigma

    def step(
        self, dynamics: LinearDynamics, posterior: Posterior, z: Tensor, t: Tensor, s: Tensor, noise: Tensor | None
    ) -> Tensor:
        here, there = dynamics.moments(t), dynamics.moments(s)
        h = here.log_sigma - there.log_sigma
        x0 = posterior(z, t)
        scale = dynamics.basis.scale
        moved = scale(there.std / here.std, z.squeeze(1)) + scale(-there.scale * torch.expm1(-h), x0)
        correction = self.correction(dynamics, here, there, h, x0)
        return (moved if correction is None else moved + correction).unsqueeze(1)

    def correction(
        self, dynamics: LinearDynamics, here: Moments, there: Moments, h: Tensor, x0: Tensor
    ) -> Tensor | None:
        """What higher orders add to the step, (B, C, *S)."""
        return None


class Exponential2(Exponential1):
    """Order 2: x0_hat linear in lambda through the last two evaluations (the first step is of order 1)."""

    order = 2

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None  # log sigma and x0_hat of the step before

    def correction(
        self, dynamics: LinearDynamics, here: Moments, there: Moments, h: Tensor, x0: Tensor
    ) -> Tensor | None:
        last, self._last = self._last, (here.log_sigma, x0)
        if last is None:
            return None
        back = last[0] - here.log_sigma
        weight = there.scale * (h + torch.expm1(-h)) / back.clamp_min(STANDSTILL)
        weight = torch.where(back > STANDSTILL, weight, torch.zeros_like(weight))
        return dynamics.basis.scale(weight, x0 - last[1])
