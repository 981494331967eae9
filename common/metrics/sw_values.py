"""Sliced Wasserstein distance between samples themselves and real ones."""

import torch
from torch import Tensor

from common.metrics.of_values import OfValues, Trial, with_spread
from common.metrics.points import directions, quantiles
from common.metrics.values import RESOLUTION

BLOCKS, BLOCK = 4, 64  # random directions: 256, 64 at a time


class SlicedValues(OfValues):
    """Mean over random directions of the squared W2 distance of projected samples, over the real variance."""

    names = ("sw_values",)
    about = (
        "(0: equal laws, 1: as far as real samples vary; sums over all points hide what is small or in few of them)",
    )

    def compared(self, trial: Trial) -> dict[str, float]:
        real = projected(trial.real)
        law, variance = quantiles(real.T), real.var(0, correction=0).mean().clamp_min(RESOLUTION**2)
        return with_spread(
            lambda some: {"sw_values": float((quantiles(some.T) - law).square().mean() / variance)},
            projected(trial.drawn),
            projected(trial.fresh),
        )


def projected(samples: Tensor) -> Tensor:
    """Projections (N, 256) of samples (N, ..) on random directions."""
    flat = samples.flatten(1)
    blocks = (directions(flat.shape[1], BLOCK, seed).to(flat.dtype) for seed in range(BLOCKS))
    return torch.cat([flat @ some for some in blocks], 1).double()
