"""Optimisers and learning rates, by name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import Adam, AdamW, Optimizer, RAdam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

BETAS = (0.9, 0.999)  # of every optimiser, in both papers

MakeOptimizer = Callable[[Iterable[nn.Parameter], float, float], Optimizer]


def adam(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Adam (arXiv 1412.6980), as published for GFDM; weight decay is part of its gradient."""
    return Adam(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay)


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Adam with decoupled weight decay (arXiv 1711.05101), as published for FDP's UViT."""
    return AdamW(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay)


def adabelief(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """AdaBelief (arXiv 2010.07468, algorithm 2) with decoupled weight decay.

    FDP's INR was trained with optax's, which takes the deviation from the mean before its update: its deviations are
    1 / 0.9 as large, and its steps 0.9 as long.
    """
    from pytorch_optimizer import AdaBelief  # here, because importing its many optimisers takes more than a second

    return AdaBelief(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay, eps=1e-16)


def radam(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Rectified Adam (arXiv 1908.03265), as published for ECT (arXiv 2406.14548); decay is part of its gradient."""
    return RAdam(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay)


OPTIMIZERS: dict[str, MakeOptimizer] = {"adam": adam, "adamw": adamw, "adabelief": adabelief, "radam": radam}


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes.

    Attributes:
        peak: largest learning rate.
        train_steps: optimiser steps in all.
        warmup_steps: steps to the peak.
        decay_steps: step, counted from the start, at which the end is reached; 0 is the last one.
        end: last learning rate.
    """

    peak: float
    train_steps: int
    warmup_steps: int = 0
    decay_steps: int = 0
    end: float = 0.0

    def warmup_cosine(self, step: int) -> float:
        """Learning rate at a step: a line from 0 to the peak, half a cosine down to the end, which then stays."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        last = self.decay_steps or self.train_steps
        share = min(1.0, (step - self.warmup_steps) / max(1, last - self.warmup_steps))
        return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * share)) / 2


MakeScheduler = Callable[[Optimizer, Schedule], LRScheduler]


def onecycle(optimizer: Optimizer, schedule: Schedule) -> LRScheduler:
    """OneCycleLR as published for GFDM: from a 25th of the peak, at 30 % of the steps, to almost 0.

    Under Adam and AdamW its beta_1 cycles 0.95 -> 0.85 -> 0.95, as in the published runs.
    """
    return OneCycleLR(optimizer, max_lr=schedule.peak, total_steps=schedule.train_steps)


def warmup_cosine(optimizer: Optimizer, schedule: Schedule) -> LRScheduler:
    """Warm-up and cosine, as published for FDP."""
    return LambdaLR(optimizer, lambda step: schedule.warmup_cosine(step) / schedule.peak)


def constant(optimizer: Optimizer, schedule: Schedule) -> LRScheduler:
    """The peak throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


SCHEDULERS: dict[str, MakeScheduler] = {"onecycle": onecycle, "warmup_cosine": warmup_cosine, "constant": constant}
