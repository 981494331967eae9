"""At which times a network is trained: from one uniform number per sample to a time in [t_min, T]."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.dynamics import LinearDynamics
from common.refusal import Refusal

NODES = 4096  # of the inverse of the noise level; times only set where training looks, so a table is exact enough
LOGNORMAL_MEAN, LOGNORMAL_DEVIATION = -1.2, 1.2  # of log sigma (EDM, arXiv 2206.00364, table 1)


def growth(step: int, warmup: int) -> float:
    """Share of the training times that is in use at a step: it grows as 1 - exp(-(step + 1) / warmup).

    FDP's schedule for its INR, which first learns to repeat almost clean data. (The published one multiplies the
    times themselves, so that every t is 0 in its first step; here the share is taken of the range [t_min, T].)

    Args:
        step: optimiser steps done.
        warmup: its time constant in steps; 0 has all times from the start.
    """
    return -math.expm1(-(step + 1) / warmup) if warmup else 1.0


class TimeSampling(nn.Module):
    """A law of training times.

    Args:
        dynamics: the process.
        t_min: smallest time, in [dynamics.t_min, T).

    Raises:
        Refusal: for another one.
    """

    def __init__(self, dynamics: LinearDynamics, t_min: float) -> None:
        super().__init__()
        if not dynamics.t_min <= t_min < dynamics.horizon:
            raise Refusal(f"must lie in [{dynamics.t_min}, {dynamics.horizon}), got {t_min}", "t_min")
        self.t_min, self.horizon = t_min, dynamics.horizon

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """Times (B,) float64 from numbers u (B,) in [0, 1)."""


class UniformTimes(TimeSampling):
    """Uniform in t, as published for GFDM (arXiv 2310.17638)."""

    def forward(self, u: Tensor) -> Tensor:
        return self.t_min + (self.horizon - self.t_min) * u


class UniformNoiseLevels(TimeSampling):
    """Uniform in log sigma between its values at t_min and T.

    Raises:
        Refusal: if the noise level is not monotone in t.
    """

    log_times: Tensor

    def __init__(self, dynamics: LinearDynamics, t_min: float) -> None:
        super().__init__(dynamics, t_min)
        if not dynamics.is_monotone:
            raise Refusal(
                f"needs a noise level that rises, which it does not under {dynamics}; take uniform, or --marginals "
                "exact",
                "time_sampling",
            )
        ends = torch.tensor([t_min, self.horizon], dtype=torch.float64, device=dynamics.device)
        self.low, self.high = dynamics.log_sigma(ends).tolist()
        levels = torch.linspace(self.low, self.high, NODES + 1, dtype=torch.float64, device=dynamics.device)
        self.register_buffer("log_times", dynamics.time_at(levels).log(), persistent=False)

    def share(self, u: Tensor) -> Tensor:
        """Where log sigma lies between its ends, (B,) in [0, 1]."""
        return u

    def forward(self, u: Tensor) -> Tensor:
        place = self.share(u).clamp(0, 1) * NODES
        node = place.floor().clamp(max=NODES - 1).long()
        times = torch.lerp(self.log_times[node], self.log_times[node + 1], place - node).exp()
        return times.clamp(self.t_min, self.horizon)


@dataclass(frozen=True)
class CutNormal:
    """A normal law between two values.

    Attributes:
        mean: that of the whole law.
        deviation: that of the whole law.
        low: smallest value.
        high: largest value.
    """

    mean: float
    deviation: float
    low: float
    high: float

    def __call__(self, u: Tensor) -> Tensor:
        """Values (B,) of numbers u (B,) in [0, 1): the inverse of its distribution function."""
        below, above = (
            0.5 * math.erfc((self.mean - end) / self.deviation / math.sqrt(2)) for end in (self.low, self.high)
        )
        deviate: Tensor = torch.special.ndtri(below + u * (above - below))
        return self.mean + self.deviation * deviate


class LogNormalNoiseLevels(UniformNoiseLevels):
    """log sigma ~ N(-1.2, 1.2^2), cut to its values at t_min and T (EDM, arXiv 2206.00364, table 1)."""

    def share(self, u: Tensor) -> Tensor:
        levels = CutNormal(LOGNORMAL_MEAN, LOGNORMAL_DEVIATION, self.low, self.high)(u)
        found: Tensor = (levels - self.low) / (self.high - self.low)
        return found


TIME_SAMPLINGS: dict[str, type[TimeSampling]] = {
    "uniform": UniformTimes,
    "log_sigma": UniformNoiseLevels,
    "lognormal": LogNormalNoiseLevels,
}
