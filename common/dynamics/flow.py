"""Flow matching: the straight path from data to noise (arXiv 2210.02747, section 4.1; arXiv 2209.03003)."""

import torch
from torch import Tensor

from common.dynamics.closed_form import ClosedForm


class Flow(ClosedForm):
    """v = (1 - t) x0 + t eps: the path of rectified flow, as a diffusion dX = -X / (1 - t) dt + sqrt(2 t / (1 - t)) dW.

    At t = 1 no data is left and sigma has no value, so the process ends a little before: at T a thousandth of the data
    is left and sigma is 999, far beyond what any data needs. Of the noise predictions only those of unit variance work
    there: v rotates between data and noise and never divides by 1 - t.
    """

    horizon = 1 - 1e-3
    default_prediction = "v"

    def scale(self, t: Tensor) -> Tensor:
        # beyond T, where published predictors re-noise to, the scale stays what it is at T and sigma still grows
        return torch.where(t > self.horizon, 1 - self.horizon, 1 - t)

    def std(self, t: Tensor) -> Tensor:
        return t
