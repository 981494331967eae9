"""Conjugate gradients on a batch of systems, each of which stops for itself (Hestenes and Stiefel, 1952)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.broadcast import align


class Solved(NamedTuple):
    """What was found.

    Attributes:
        solution: u, (B, ..).
        carried: L u, (B, ..), for the map L that was asked for on the way.
        steps: number of steps that every system took, (B,) int64.
    """

    solution: Tensor
    carried: Tensor
    steps: Tensor


CONJUGATE = 0.1  # cosine, in the product of K, from which on two directions in turn are no longer conjugate


def solve(
    operator: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: Tensor,
    *,
    steps: int,
    tolerance: float,
) -> Solved:
    """Solve K u = target for symmetric positive K, sample by sample, from u = 0.

    A sample is done when its residual has fallen to ``tolerance``, and from then on stays as it is: past rounding the
    next quotient would be 0 / 0. So is one along whose direction K is not positive, or not conjugate to the one before:
    then K is not symmetric (that of a trained network is only so far), further steps would follow its errors, and it
    keeps what it has. Nothing waits for the device; on a CPU the loop ends when all samples are done, with the same
    result.

    Args:
        operator: from u (B, ..) to K u, of its shape, and L u for any linear L, which is summed up on the way to what
            it is of the solution; no sample may depend on another.
        target: (B, ..).
        steps: most steps, at least 1.
        tolerance: of the residual, relative to the target.

    Returns:
        A :class:`Solved`.
    """
    solution, residual, direction, carried = torch.zeros_like(target), target, target, None
    size = inner(residual, residual)
    enough = tolerance**2 * size
    going = size > 0
    earlier, earlier_curvature = torch.zeros_like(target), torch.ones_like(size)
    taken = torch.zeros(len(target), dtype=torch.int64, device=target.device)
    for i in range(steps):
        if i and target.device.type == "cpu" and not bool(going.any()):
            break
        image, aside = operator(direction)
        curvature = inner(direction, image)
        going = going & (curvature > 0)
        going = going & (inner(earlier, image).square() <= CONJUGATE**2 * earlier_curvature * curvature)
        earlier, earlier_curvature = direction, curvature
        length = torch.where(going, size / curvature.where(going, 1), 0)
        solution = solution + align(length, target) * direction
        carried = align(length, aside) * aside if carried is None else carried + align(length, aside) * aside
        residual = residual - align(length, target) * image
        new = inner(residual, residual)
        slope = torch.where(going, new / size.where(going, 1), 0)
        direction = torch.where(align(going, target).bool(), residual + align(slope, target) * direction, direction)
        size = torch.where(going, new, size)
        taken = taken + going
        going = going & (size > enough)
    assert carried is not None  # there is at least one step
    return Solved(solution, carried, taken)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample, (B,) float64."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64)
