"""Noise levels matched: a denoiser that was trained under one process is used under another.

Whatever the process, a network is shown v = m x0 + sc eps. With u = v / m ~ N(x0, sigma^2), sigma = sc / m, all that v
says of x0 is u and sigma. So at the time t' at which the trained process has the sigma that the other one has at t,

    x0_hat(v, t) = x0_hat'(m'(t') v / m(t), t')

is the same function of u and sigma (EDM, arXiv 2206.00364, section 2, for VP and VE; here for every linear SDE with
one noise level for all modes).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from common.dynamics import LinearDynamics
from common.dynamics.inverse import TimeOfLevel
from common.refusal import Refusal

ROUNDING = 1.005  # to three digits goes up then
TOLERANCE = 1.01  # a level beyond what a network was trained at by one part in a hundred is no other one


class Trained(Protocol):
    """A denoiser that knows the process it was trained under, as :class:`~common.denoiser.Denoiser` does."""

    dynamics: LinearDynamics

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x0_hat, (B, C, *S)."""


class NotReached(Refusal):
    """The other process begins at more noise than the network was trained with."""


class Levels(NamedTuple):
    """Noise levels sigma of a process, from an early time to T."""

    low: float
    high: float

    @classmethod
    def of(cls, dynamics: LinearDynamics, t: float) -> "Levels":
        """Those of a process of one noise level from time t on."""
        times = torch.tensor([t, dynamics.horizon], dtype=torch.float64, device=dynamics.device)
        low, high = dynamics.log_sigma(times).exp().tolist()
        return cls(low, high)


class Matched(nn.Module):
    """A denoiser under another process than it was trained under.

    Other wrappers go around it, and see v and t of that process. Nothing in a call waits for the device.

    Attributes:
        process: the process that it serves.
        levels: noise levels of that process that sampling goes through.

    Args:
        denoiser: what was trained, with the process it was trained under as ``dynamics``.
        dynamics: the process to sample under; its scalar path is served too.
        t_end: time at which sampling will end, in [dynamics.t_min, T) (default: that of the dynamics).
        t_min: smallest time of its own process that the denoiser was trained at (default: that of the process).

    Raises:
        Refusal: if a process has a noise level per mode or one that falls, or sampling would need a noise level that
            the denoiser was not trained at (:class:`NotReached` if it is too high).
    """

    def __init__(
        self, denoiser: Trained, dynamics: LinearDynamics, *, t_end: float | None = None, t_min: float | None = None
    ) -> None:
        super().__init__()
        trained = denoiser.dynamics
        for process, what in ((trained, "was trained under"), (dynamics, "is to be sampled under")):
            if process.basis.modes:
                raise Refusal(
                    f"noise levels cannot be matched: {process}, which the network {what}, has one per mode, and no "
                    "time of another process has all of them"
                )
            if not process.is_monotone:
                raise Refusal(
                    f"noise levels cannot be matched: that of {process}, which the network {what}, falls in places, so "
                    "it names no time; marginals exact has none that falls"
                )
        t_end = max(dynamics.default_t_end, dynamics.t_min) if t_end is None else t_end
        known = Levels.of(trained, max(trained.t_min, t_min or 0))
        self.levels = Levels.of(dynamics, t_end)
        if self.levels.high > known.high * TOLERANCE:
            raise NotReached(
                f"noise levels cannot be matched: {dynamics} begins at sigma(T) = {self.levels.high:.4g}, and under "
                f"{trained} the network was trained up to {known.high:.4g}; take a process that begins lower"
            )
        if self.levels.low * TOLERANCE < known.low:
            level = torch.tensor([known.low], device=dynamics.device).log()
            raise Refusal(
                f"{t_end:g} is too early: {dynamics} has sigma = {self.levels.low:.3g} there, and under {trained} the "
                f"network was trained from {known.low:.3g} on; take {ROUNDING * float(dynamics.time_at(level)):.3g}",
                "t_end",
            )
        self.denoiser, self.process = denoiser, dynamics
        self.time_of_level = TimeOfLevel(trained)

    def forward(
        self, v: Tensor, t: Tensor, labels: Tensor | None = None, *, out_shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """x0_hat for v (B, C, *S) of the other process at its times (B,): (B, C, *S), or (B, C, *out_shape)."""
        trained, law = self.denoiser.dynamics, self.process.moments(t)
        time = self.time_of_level(law.log_sigma)
        factor = trained.moments(time).scale / law.scale
        grid = {} if out_shape is None else {"out_shape": out_shape}
        return self.denoiser(self.process.basis.scale(factor, v), time, labels, **grid)
