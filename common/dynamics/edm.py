"""The process of EDM (arXiv 2206.00364, section 2 and table 1): noise is added, and time is its level."""

import math

import torch
from torch import Tensor

from common.dynamics.closed_form import ClosedForm
from common.refusal import require


class EDM(ClosedForm):
    """m = 1, sigma = sigma_max t on (0, 1].

    EDM samples from sigma = 80 down to .002, and trains at log-normal levels with its own scalings of the network.
    Euler steps are laid in log sigma: equal steps in t are equal in sigma, the last of 1,000 from .08 to .002 at once.

    Args:
        sigma_max: noise level at t = 1, above 0.

    Raises:
        Refusal: for a level that is not above 0.
    """

    default_t_end = 2.5e-5  # sigma = .002
    default_time_sampling = "lognormal"
    default_prediction = "edm"
    default_grid = "log_sigma"

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        require(0 < sigma_max < math.inf, "sigma_max", "above 0 and finite", sigma_max)
        self.sigma_max = sigma_max

    def log_scale(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def noise_level(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_max) + t.log()

    def extra_repr(self) -> str:
        return f"sigma_max={self.sigma_max}"
