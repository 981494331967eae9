"""Noise level to time by a few looks at the level, not by many halvings: a table, then false position in its cell."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.dynamics.base import LinearDynamics

NODES = 4096  # uniform in log t
REFINEMENTS = 4  # of a cell; they leave 1e-8 of log sigma, 1e-6 where it stands still
LEAST = 1e-300  # difference of two levels that are equal


class TimeOfLevel(nn.Module):
    """What :meth:`LinearDynamics.time_at` finds by 64 halvings, from a few looks at the noise level: cheap in a step.

    Args:
        dynamics: a process whose noise level never falls.

    Raises:
        Refusal: if it does.
    """

    log_times: Tensor
    levels: Tensor

    def __init__(self, dynamics: LinearDynamics) -> None:
        super().__init__()
        dynamics.require_monotone("the time of a noise level")
        self.dynamics = dynamics
        ends = math.log(dynamics.t_min), math.log(dynamics.horizon)
        log_times = torch.linspace(*ends, NODES, dtype=torch.float64, device=dynamics.device)
        self.register_buffer("log_times", log_times, persistent=False)
        # a level that stands still may fall by its rounding
        levels = dynamics.log_sigma(log_times.exp()).cummax(0).values
        self.register_buffer("levels", levels, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # tables stay float64 whatever a network beside them is cast to: only the device follows
        return super()._apply(  # type: ignore[no-untyped-call]
            lambda buffer: buffer.to(fn(buffer.new_empty(0)).device), recurse
        )

    def forward(self, log_sigma: Tensor) -> Tensor:
        """Times (B,) float64 of noise levels (B,); those outside the range of the dynamics give its end times."""
        wanted = log_sigma.double().clamp(self.levels[0], self.levels[-1])
        above = torch.searchsorted(self.levels, wanted).clamp(1, NODES - 1)
        low, high = self.log_times[above - 1], self.log_times[above]
        short, over = self.levels[above - 1] - wanted, self.levels[above] - wanted  # of the level at either end
        before: Tensor | None = None
        for _ in range(REFINEMENTS):
            middle = _crossing(low, high, short, over)
            miss = self.dynamics.log_sigma(middle.exp()) - wanted
            below = miss < 0
            if before is not None:  # an end that stays twice counts half, or a curved level would be crept up to
                short = torch.where(below | before, short, short / 2)
                over = torch.where(below & before, over / 2, over)
            low, short = torch.where(below, middle, low), torch.where(below, miss, short)
            high, over = torch.where(below, high, middle), torch.where(below, over, miss)
            before = below
        return _crossing(low, high, short, over).exp()


def _crossing(low: Tensor, high: Tensor, short: Tensor, over: Tensor) -> Tensor:
    """Where the straight line from ``short`` <= 0 at ``low`` to ``over`` >= 0 at ``high`` crosses zero."""
    return torch.lerp(low, high, (-short / (over - short).clamp_min(LEAST)).clamp(0, 1))
