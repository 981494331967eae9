"""The process of EDM (arXiv 2206.00364, table 1): the time is the noise level."""

import math

import torch
from torch import Tensor

from common.dynamics.closed_form import ClosedForm
from common.refusal import require


class EDM(ClosedForm):
    """v = x0 + sigma eps with sigma = sigma_max t, as a diffusion dX = sigma_max sqrt(2 t) dW.

    EDM's own t is sigma; here it is that over sigma_max, so that networks see times in [0, 1]. Defaults are EDM's: it
    samples down to sigma = 0.002, and trains on log-normal noise levels with its own preconditioning. Equal steps in t
    would be equal steps in sigma, the last of which alone is 0.08 long at 1,000 steps: grids are laid in log sigma.

    Args:
        sigma_max: noise level at t = 1, above 0.

    Raises:
        Refusal: for a noise level that is not above 0 and finite.
    """

    default_t_end = 2.5e-5  # sigma = 0.002
    default_time_sampling = "lognormal"
    default_prediction = "edm"
    default_grid = "log_sigma"

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        require(0 < sigma_max < math.inf, "sigma_max", "above 0 and finite", sigma_max)
        self.sigma_max = sigma_max

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def extra_repr(self) -> str:
        return f"sigma_max={self.sigma_max}"
