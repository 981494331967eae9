"""Some values of a sample, the others unknown: inpainting, a gap in a sound, sensors at grid points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.guidance.operators.base import Operator
from common.refusal import Refusal


class Mask(Operator):
    """y = mask x: the values where the mask is 1, zeros elsewhere, on the grid of the sample.

    A A' is the mask itself, so zeros of y stay zeros and nothing is inverted.

    Args:
        mask: 1 or True where values are known: (*S), (1 or C, *S), or one per sample, (N, 1 or C, *S).

    Raises:
        Refusal: for values other than 0 and 1.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise Refusal("must hold 0 and 1 alone", "mask")
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        mask = self.mask.shape[-len(shape) :] if self.mask.ndim > len(shape) else self.mask.shape
        channels = mask[0] if len(mask) == len(shape) else 1
        if (
            len(mask) < len(shape) - 1
            or tuple(mask[-len(shape) + 1 :]) != tuple(shape[1:])
            or channels not in (1, shape[0])
        ):
            raise Refusal(f"has shape {tuple(self.mask.shape)}, samples have {tuple(shape)}", "mask")
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y

    def rows(self, indices: Sequence[int]) -> Operator:
        raise NotImplementedError

    def picture(self, y: Tensor) -> Tensor:
        return torch.where(self.mask.expand_as(y) > 0, y, torch.nan)
