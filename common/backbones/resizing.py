"""Values on a grid brought to another one by linear interpolation, axis by axis."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.refusal import Refusal

TARGET = "target_shape"  # the flag by which another grid is asked for


def check_grid(network: nn.Module, out_shape: Sequence[int]) -> None:
    """Refuse a grid that a network cannot answer on: any, unless it takes ``out_shape``.

    Args:
        network: it may have a method ``check_grid``, which says more.
        out_shape: the grid.
    """
    if "out_shape" not in inspect.signature(network.forward).parameters:
        name = type(network).__name__
        raise Refusal(f"{out_shape}: {name} works on one grid; a coordinate network (INR) or UViT on others", TARGET)
    if own := getattr(network, "check_grid", None):
        own(out_shape)


def resize_linear(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize by linear interpolation between the centres of cells, clamped at the edges: what an image's pixels are.

    Where an axis shrinks, the interpolating triangle is widened to average what would alias. These are the numbers of
    ``jax.image.resize``, which the published code resizes with.

    Args:
        x: (.., *S), any number of axes.
        shape: the new sizes of S.

    Returns:
        (.., *shape).
    """
    for axis, new in enumerate(shape, start=-len(shape)):
        old = x.shape[axis]
        if old == new:
            continue
        centre = (torch.arange(new, device=x.device, dtype=x.dtype) + 0.5) * (old / new) - 0.5
        weights = (1 - _distances(centre, old) / max(old / new, 1)).clamp(min=0)
        weights = weights / weights.sum(-1, keepdim=True)
        x = _along(x, axis, weights)
    return x


def spread_linear(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear interpolation at points spread evenly from the first to the last, whose values stay: points of a function.

    What is linear along the axes, as coordinates are, is exact.

    Args:
        x: (.., *S), any number of axes.
        shape: the new sizes of S; a single new point of an axis lies in its middle.

    Returns:
        (.., *shape).
    """
    for axis, new in enumerate(shape, start=-len(shape)):
        old = x.shape[axis]
        if old == new:
            continue
        place = torch.arange(new, device=x.device, dtype=x.dtype) * ((old - 1) / max(1, new - 1))
        place = place if new > 1 else place + (old - 1) / 2
        x = _along(x, axis, (1 - _distances(place, old)).clamp(min=0))
    return x


def _distances(place: Tensor, size: int) -> Tensor:
    """Distances (new, size) of places (new,) from the points 0 .. size - 1."""
    return (place.unsqueeze(-1) - torch.arange(size, device=place.device, dtype=place.dtype)).abs()


def _along(x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """An axis of x mapped by weights (new, old)."""
    return (x.movedim(axis, -1) @ weights.mT).movedim(-1, axis)
