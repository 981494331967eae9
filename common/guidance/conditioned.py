"""What a conditional method is: a denoiser that knows an observation, with the call of a denoiser."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.guidance.operators import Operator
from common.refusal import require


class Conditioned(nn.Module, ABC):
    """A denoiser given an observation y = A x0 + N(0, noise_std^2 I).

    Clip afterwards, ``Clipped(method(denoiser, ..))``: a clipped denoiser has no symmetric posterior covariance.

    Args:
        denoiser: any callable (v, t, labels) to x0_hat, guided by class or not, not clipped.
        dynamics: what is sampled under; its scalar path is served too.
        operator: A.
        y: observations (B, *operator.shape_of(sample)), on the network's scale.
        noise_std: deviation of their noise, on the network's scale, at least 0.

    Raises:
        Refusal: for a negative deviation.
    """

    imposes: ClassVar[bool] = False  # whether it acts on states, so that the loop calls it (common.denoiser.Imposes)
    y: Tensor

    def __init__(
        self, denoiser: X0Denoiser, dynamics: LinearDynamics, operator: Operator, y: Tensor, *, noise_std: float = 0.0
    ) -> None:
        super().__init__()
        require(noise_std >= 0, "noise_std", "at least 0", noise_std)
        self.denoiser, self.process, self.operator, self.noise_std = denoiser, dynamics, operator, noise_std
        self.register_buffer("y", y, persistent=False)

    @abstractmethod
    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x0_hat given v (B, C, *S), t (B,), labels (B,) or None, and the observation: (B, C, *S)."""

    def values(self, v: Tensor) -> Tensor | None:
        """How many values are observed of each sample (C, *S) of v, () or (B,), where an excess is looked for.

        That is where modes have noise levels of their own: what one calls known another multiplies by thousands.
        """
        return self.operator.values(v.shape[1:]).to(v.device) if self.process.basis.modes else None

    def finish(self, x: Tensor) -> Tensor:
        """The result (B, C, *S) made to agree with an observation that has no noise."""
        return x if self.noise_std > 0 else x + self.operator.inverse(self.y.to(x.dtype) - self.operator(x))

    def unexplained(self, x0: Tensor) -> Tensor:
        """y - A x0, (B, *shape_of), without what cannot be of any sample where that is easy to tell."""
        missing: Tensor = self.y.to(x0.dtype) - self.operator(x0)
        if not self.operator.projector:
            return missing
        found: Tensor = self.operator(self.operator.adjoint(missing))
        return found
