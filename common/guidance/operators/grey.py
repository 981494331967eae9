"""Brightness alone: colouring."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.guidance.operators.base import Operator
from common.refusal import Refusal

WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue, as published (ITU-R BT.601)


class Grey(Operator):
    """y = .2989 red + .587 green + .114 blue, (1, *S)."""

    paper_early = True
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(WEIGHTS, dtype=torch.float64), persistent=False)

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        channels, *grid = shape
        if channels != len(WEIGHTS):
            raise Refusal(f"Grey takes red, green and blue; samples have {channels} channels, {tuple(shape)}")
        return (1, *grid)

    def forward(self, x: Tensor) -> Tensor:
        return (self._along(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._along(y) * y

    def inverse(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.weights.square().sum().to(y.dtype)

    def _along(self, x: Tensor) -> Tensor:
        return self.weights.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2))
