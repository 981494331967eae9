"""Some values of a sample, the others unknown: inpainting, a gap in a sound, sensors at grid points."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.guidance.operators.base import Operator
from common.refusal import Refusal


class Mask(Operator):
    """y = mask x: the values where the mask is 1, zeros elsewhere, on the grid of the sample.

    A A' is the mask itself, so nothing is inverted.

    Args:
        mask: 1 or True where values are known: (*S) or (1 or C, *S) for all samples, or with ``per_sample``
            (N, 1 or C, *S).
        per_sample: whether every sample has a mask of its own.

    Raises:
        Refusal: for values other than 0 and 1.
    """

    projector = True
    mask: Tensor

    def __init__(self, mask: Tensor, *, per_sample: bool = False) -> None:
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise Refusal("must hold 0 and 1 alone", "mask")
        self.per_sample = per_sample
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        (channels, *grid), own = shape, tuple(self.mask.shape[self.per_sample :])
        if own not in {(*lead, *grid) for lead in ((1,), (channels,))} and (self.per_sample or own != tuple(grid)):
            of = " per sample" if self.per_sample else ""
            raise Refusal(f"has shape {own}{of}, samples have {tuple(shape)}", "mask")
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask.to(x.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def values(self, shape: Sequence[int]) -> Tensor:
        each = self.mask.unsqueeze(0) if not self.per_sample else self.mask
        share = each.flatten(1).mean(1, dtype=torch.float64) * math.prod(shape)
        return share if self.per_sample else share[0]

    def rows(self, indices: Sequence[int]) -> Operator:
        return Mask(self.mask[list(indices)], per_sample=True) if self.per_sample else self

    def picture(self, y: Tensor) -> Tensor:
        return torch.where(self.mask.expand_as(y) > 0, y, torch.nan)
