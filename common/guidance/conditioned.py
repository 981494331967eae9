"""What a conditional method is: a denoiser that knows an observation, with the call of a denoiser."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from torch import Tensor, nn

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.guidance.operators import Operator


class Imposes(Protocol):
    """What the loop calls of a method that acts on states (``sample(observation=..)``)."""

    def impose(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The state z (B, A, C, *S) at time t (1,) made to agree with the observation; noise has the shape of z."""

    def finish(self, x: Tensor) -> Tensor:
        """The result (B, C, *S) made to agree with the observation."""


class Conditioned(nn.Module, ABC):
    """A denoiser given an observation y = A x0 + N(0, noise_std^2 I).

    Clip afterwards, ``Clipped(method(denoiser, ..))``: a clipped denoiser has no symmetric posterior covariance.

    Args:
        denoiser: any callable (v, t, labels) to x0_hat, guided by class or not, not clipped.
        dynamics: what is sampled under; its scalar path is served too.
        operator: A.
        y: observations (B, *operator.shape_of(sample)), on the network's scale.
        noise_std: deviation of their noise, on the network's scale, at least 0.
    """

    imposes: ClassVar[bool] = False  # whether it acts on states, so that the loop calls it (see Imposes)

    def __init__(
        self, denoiser: X0Denoiser, dynamics: LinearDynamics, operator: Operator, y: Tensor, *, noise_std: float = 0.0
    ) -> None:
        super().__init__()
        self.denoiser, self.process, self.operator, self.noise_std = denoiser, dynamics, operator, noise_std
        self.register_buffer("y", y, persistent=False)

    @abstractmethod
    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x0_hat given v (B, C, *S), t (B,), labels (B,) or None, and the observation: (B, C, *S)."""
