"""How errors at different noise levels are weighted: from log sigma to a weight on the squared error of x0_hat.

A dynamics with modes asks for the weight of every mode. One that falls like 1 / sigma^2 needs no metric beside it; a
constant leaves the weighing of modes to the metric of the dynamics.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from common.denoiser import SIGMA_DATA, InMetric, LossWeight

MIN_SNR_GAMMA = 5.0


def flat(log_sigma: Tensor) -> Tensor:
    """1 at every noise level."""
    return torch.ones_like(log_sigma)


def min_snr(log_sigma: Tensor) -> Tensor:
    """min(1 / sigma^2, 5) (Min-SNR-gamma, arXiv 2303.09556, section 3.4)."""
    return (-2 * log_sigma).exp().clamp(max=MIN_SNR_GAMMA)


def edm(log_sigma: Tensor) -> Tensor:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (EDM, arXiv 2206.00364, table 1): 1 / c_out^2."""
    return (-2 * log_sigma).exp() + SIGMA_DATA**-2


# None: the error of the network's own output, as published for GFDM. x0 and edm are what a network of that prediction
# has as its own error: under heat FDP's published loss, and one that weighs normalised modes alike
LOSS_WEIGHTS: dict[str, LossWeight | None] = {"own": None, "x0": InMetric(flat), "min_snr": min_snr, "edm": edm}

# factor on the mean squared error of a sample on a grid; FDP sums over the points, so that the loss grows with them
REDUCTIONS: dict[str, Callable[[tuple[int, ...]], float]] = {"mean": lambda grid: 1.0, "sum": math.prod}
