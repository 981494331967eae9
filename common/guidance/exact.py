"""Moment matching with the exact covariance of x0 given v (MMPS, arXiv 2405.13712), under any linear dynamics."""

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.guidance.conditioned import Conditioned
from common.guidance.conjugate import solve
from common.guidance.covariance import Covariance
from common.guidance.operators import Operator
from common.refusal import require

TOLERANCE = 1e-5  # of the residual, from which on float32 has nothing left


class ExactCovariance(Conditioned):
    """x0_hat + V A' (A V A' + noise_std^2 I)^-1 (y - A x0_hat), V = Cov[x0 | v] by derivatives of the denoiser.

    That is E[x0 | v, y] where x0 given v is Gaussian, also on a state of several components: y depends on x0 alone. The
    inverse takes a few conjugate-gradient steps, each of which is one vector-Jacobian product.

    Args:
        iterations: conjugate-gradient steps, at most; at least 1.

    Raises:
        Refusal: for fewer.
    """

    def __init__(
        self,
        denoiser: X0Denoiser,
        dynamics: LinearDynamics,
        operator: Operator,
        y: Tensor,
        *,
        noise_std: float = 0.0,
        iterations: int = 8,
    ) -> None:
        super().__init__(denoiser, dynamics, operator, y, noise_std=noise_std)
        require(iterations >= 1, "iterations", "at least 1", iterations)
        self.iterations = iterations

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        covariance = Covariance(self.denoiser, self.process, v, t, labels)
        operator, noise = self.operator, self.noise_std**2

        def seen(u: Tensor) -> tuple[Tensor, Tensor]:
            moved = covariance(operator.adjoint(u))
            return operator(moved) + noise * u, moved

        with torch.no_grad():
            missing = self.unexplained(covariance.x0)
            found = solve(
                seen, missing, steps=self.iterations, tolerance=TOLERANCE, learned=True, values=self.values(v)
            )
            return covariance.x0 + found.carried
