"""Exponential moving average of a network's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

START = 100  # optimiser steps that are copied, not averaged: the first weights say nothing
POWER = 2 / 3  # warm-up of the decay, as in ema-pytorch (the library the published runs used)


def warm_decay(step: int, decay: float) -> float:
    """Decay at an optimiser step: 0 up to step 100, then 1 - (step - 99)^(-2/3), at most ``decay``."""
    return 0.0 if step <= START else min(decay, 1 - (step - START + 1) ** -POWER)


class NetworkAverage(AveragedModel):
    """``AveragedModel`` of a network with a warmed-up decay, updated every few optimiser steps.

    The count of updates stays on the CPU, so that reading it costs a GPU no wait.

    Args:
        network: the network to average.
        decay: largest decay, in [0, 1).
        every: optimiser steps between updates.
    """

    def __init__(self, network: nn.Module, *, decay: float, every: int) -> None:
        super().__init__(network, multi_avg_fn=self._average)
        self.decay, self.every = decay, every
        self._step = 0
        self.module.requires_grad_(False).eval()

    @torch.no_grad()
    def _average(
        self,
        averages: tuple[Tensor, ...] | list[Tensor],
        current: tuple[Tensor, ...] | list[Tensor],
        count: Tensor | int,
    ) -> None:
        torch._foreach_lerp_(averages, current, 1 - warm_decay(self._step, self.decay))

    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights after optimiser step ``step`` (from 1) into the average, if it is due."""
        if step % self.every == 0:
            self._step = step
            self.update_parameters(network)

    def train(self, mode: bool = True) -> "NetworkAverage":
        """The average is only ever evaluated: dropout stays off."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.n_averaged = self.n_averaged.cpu()
        return self
