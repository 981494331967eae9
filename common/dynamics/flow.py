"""The straight path from data to noise of flow matching (arXiv 2210.02747, section 4.1), as a linear SDE."""

import torch
from torch import Tensor

from common.dynamics.closed_form import ClosedForm

END = 0.995  # at t = 1 nothing is left of the data, and sigma is infinite; here it is 199
LEAST = 1e-6  # scale beyond T, where published samplers may look


class Flow(ClosedForm):
    """m = 1 - t, sc = t on [0, 0.995]: dX = -X / (1 - t) dt + sqrt(2 t / (1 - t)) dW has this law."""

    horizon = END
    default_prediction = "v"

    def scale(self, t: Tensor) -> Tensor:
        return (1 - t).clamp_min(LEAST)

    def std(self, t: Tensor) -> Tensor:
        return t

    def noise_level(self, t: Tensor) -> Tensor:
        return torch.log(t) - torch.log(self.scale(t))
