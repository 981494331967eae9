"""Pseudo-inverse guidance: a covariance of x0 given v that is the same for all values (arXiv 2303.11435)."""

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.guidance.conditioned import Conditioned
from common.guidance.conjugate import solve
from common.guidance.covariance import Covariance
from common.guidance.operators import Operator
from common.refusal import require

STEPS, TOLERANCE = 50, 1e-5  # of conjugate gradients without a network


class Isotropic(Conditioned):
    """x0_hat + V A' (A R A' + noise_std^2 I)^-1 (y - A x0_hat), R = sigma^2 s^2 / (sigma^2 + s^2) in place of V inside.

    R is what V would be if values (modes, where these have noise levels of their own) were independent. One
    vector-Jacobian product.

    Args:
        data_std: s, the deviation of the data, above 0 (default: per mode where the prior knows it, else what is known
            of the data).

    Raises:
        Refusal: for a value out of range.
    """

    def __init__(
        self,
        denoiser: X0Denoiser,
        dynamics: LinearDynamics,
        operator: Operator,
        y: Tensor,
        *,
        noise_std: float = 0.0,
        data_std: float | None = None,
    ) -> None:
        super().__init__(denoiser, dynamics, operator, y, noise_std=noise_std)
        require(data_std is None or data_std > 0, "data_std", "above 0", data_std)
        self.data_std = data_std

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        covariance = Covariance(self.denoiser, self.process, v, t, labels)
        operator, noise, basis = self.operator, self.noise_std**2, self.process.basis
        level, spread = covariance.law.sigma.square(), self._spread()
        share = spread / (1 + spread / level)  # R; sigma^2 itself may be beyond float64's square

        def seen(u: Tensor) -> tuple[Tensor, Tensor]:
            back = operator.adjoint(u)
            return operator(basis.scale(share, back)) + noise * u, back

        with torch.no_grad():
            found = solve(
                seen, self.unexplained(covariance.x0), steps=STEPS, tolerance=TOLERANCE, values=self.values(v)
            )
            return covariance.x0 + covariance(found.carried)

    def _spread(self) -> Tensor:
        """s^2, one number or one per mode."""
        known = self.process.prior.variance
        if self.data_std is None and known.ndim:
            return known
        std = self.process.data_std if self.data_std is None else self.data_std
        return torch.full((), std**2, dtype=torch.float64, device=self.process.device)
