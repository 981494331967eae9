"""Smooth functions of time as float64 tables, read on the device."""

import math

import numpy as np
import torch
from torch import Tensor, nn

DEGREE = 5
CELL = 0.034  # spacing of the nodes in tau = log t + RATE t: quintic pieces are then good to 1e-9
RATE = 20.0  # what a faster process changes follows log t: it has settled when its rate is high against 1 / t


def time_nodes(t_min: float, t_max: float, rate: float = RATE) -> np.ndarray:
    """Nodes uniform in tau = log t + rate t, which resolves t -> 0 and the layer of width 1 / rate before t_max."""
    start, end = math.log(t_min) + rate * t_min, math.log(t_max) + rate * t_max
    tau = np.linspace(start, end, math.ceil((end - start) / CELL) + 1)
    t = np.exp(np.minimum(tau, math.log(t_max)))  # from above: log t <= tau
    for _ in range(100):  # Newton in log t: tau is convex there, so it converges from above
        residual = np.log(t) + rate * t - tau
        t = t * np.exp(-residual / (1 + rate * t))
    t[0], t[-1] = t_min, t_max
    return t


class TimeTable(nn.Module):
    """Quintic pieces through values at :func:`time_nodes`; one gather and Horner's rule per look-up.

    Args:
        t: nodes (N,) from :func:`time_nodes`.
        values: (N, fields) float64.
        rate: the rate the nodes were made with.
    """

    coefficients: Tensor

    def __init__(self, t: np.ndarray, values: Tensor, rate: float = RATE) -> None:
        from scipy.interpolate import make_interp_spline  # only here: it takes a third of a second to import

        super().__init__()
        tau = np.log(t) + rate * t
        self.rate, self.t_min, self.t_max = rate, float(t[0]), float(t[-1])
        self.start, self.cells = float(tau[0]), len(t) - 1
        self.width = float(tau[-1] - tau[0]) / self.cells
        spline = make_interp_spline(np.linspace(tau[0], tau[-1], len(t)), values.numpy(), k=DEGREE)
        left = np.linspace(tau[0], tau[-1], len(t))[:-1]
        pieces = [spline.derivative(j)(left) * self.width**j / math.factorial(j) for j in range(1, DEGREE + 1)]
        stacked = torch.from_numpy(np.stack([spline(left), *pieces], axis=1))  # (cells, degree + 1, fields)
        self.register_buffer("coefficients", stacked, persistent=False)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = t.clamp(self.t_min, self.t_max)
        position = (torch.log(t) + self.rate * t - self.start) / self.width
        cell = position.floor().clamp(0, self.cells - 1)
        return self.coefficients[cell.long()], (position - cell).unsqueeze(1), t

    def forward(self, t: Tensor) -> Tensor:
        """Values at times (B,) float64: (B, fields)."""
        pieces, x, _ = self._locate(t)
        value = pieces[:, DEGREE]
        for j in range(DEGREE - 1, -1, -1):
            value = torch.addcmul(pieces[:, j], value, x)
        return value

    def derivative(self, t: Tensor) -> Tensor:
        """Time derivatives at times (B,) float64: (B, fields)."""
        pieces, x, t = self._locate(t)
        value = DEGREE * pieces[:, DEGREE]
        for j in range(DEGREE - 1, 0, -1):
            value = torch.addcmul(j * pieces[:, j], value, x)
        return value / self.width * (1 / t + self.rate).unsqueeze(1)
