"""Where sampling starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.refusal import Refusal

if TYPE_CHECKING:
    from common.dynamics.base import LinearDynamics

LITTLE_NOISE = 2.0  # sigma at T below which the data shows through, whose values are about 1


class Prior(nn.Module):
    """Where sampling starts: the law of Z_T.

    With mean and variance zero this is N(0, S(T)), as both papers have it. With the data's own mean and variance it
    is N(M(T) mean, S(T) + M M' variance), which is right also where sigma(T) is small (large K) or some modes still
    hold a good part of the data at T (heat dynamics: up to a third of it). Channels share one variance; what they have
    in common is left out.

    Args:
        dynamics: the dynamics whose end it is.
        mean: mean of the data: one number, or a function (C, *S).
        variance: variance of the data: one number, or one per mode (*modes).

    Raises:
        ValueError: for a negative variance, or one of another shape.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dynamics: LinearDynamics, mean: float | Tensor = 0.0, variance: float | Tensor = 0.0) -> None:
        super().__init__()
        # copies on the CPU in float64: a prior may be made from what another one, on a device, holds
        mean, variance = (
            torch.as_tensor(value, dtype=torch.float64, device="cpu").clone() for value in (mean, variance)
        )
        if variance.ndim and tuple(variance.shape) != dynamics.basis.modes:
            raise ValueError(
                f"variance of the prior must be one number or one per mode {dynamics.basis.modes}, got shape "
                f"{tuple(variance.shape)}"
            )
        if not (variance >= 0).all():
            raise Refusal(f"variance of the prior must be at least 0, got {variance.min():g}")
        self.register_buffer("mean", mean, False)
        self.register_buffer("variance", variance, False)
        self._owner: tuple[LinearDynamics] = (dynamics,)  # a tuple, so that nn.Module sees no cycle

    def sample(self, shape: tuple[int, ...], noise: Tensor) -> Tensor:
        """Turn white noise into a start state.

        Args:
            shape: data shape (B, C, *S).
            noise: (B, A, C, *S).

        Returns:
            z, (B, A, C, *S), on the device and in the dtype of the noise.
        """
        dynamics = self._owner[0]
        expected = (shape[0], dynamics.num_components, *shape[1:])
        if tuple(noise.shape) != expected:
            raise ValueError(f"noise of the prior must have shape {expected}, got {tuple(noise.shape)}")
        t = torch.full((1,), dynamics.horizon, dtype=torch.float64, device=noise.device)
        root = dynamics._root(t).clone()
        sigma_squared = dynamics.moments(t).sigma.square()
        # the first column of the root is M sigma: the data's own variance adds to sigma^2
        root[:, :, 0] *= (1 + self.variance.to(noise.device) / sigma_squared).sqrt().unsqueeze(1)
        mean = self.mean.to(noise).expand(shape)
        shift = dynamics.basis.mix(dynamics._mean(t).unsqueeze(2), mean.unsqueeze(1))
        return shift + dynamics.basis.mix(root, noise)

    def extra_repr(self) -> str:
        if self.mean.ndim or self.variance.ndim:
            return f"mean of {self.mean.mean():g}, variance per mode of {self.variance.mean():g}, on average"
        return f"mean={self.mean:g}, variance={self.variance:g}"

    def tensors(self) -> dict[str, Tensor]:
        """Mean and variance, float64, as a run folder keeps them."""
        return {"mean": self.mean, "variance": self.variance}
