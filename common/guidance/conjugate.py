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


ORTHOGONAL = 0.03  # cosine of a residual and the first one from which on K is not symmetric enough to go on
BY_LOT = 5.0  # deviations of a mean square, relative sqrt(2 / n), by which a target may be larger than K says


def solve(
    operator: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: Tensor,
    *,
    steps: int,
    tolerance: float,
    learned: bool = False,
    values: Tensor | None = None,
) -> Solved:
    """Solve (K + excess I) u = target for symmetric positive K, sample by sample, from u = 0.

    A sample is done when its residual has fallen to ``tolerance``, and from then on stays as it is: past rounding the
    next quotient would be 0 / 0. So is one along whose direction K is not positive, which keeps what it has. Nothing
    waits for the device; on a CPU the loop ends when all samples are done, with the same result.


    Args:
        operator: from u (B, ..) to K u, of its shape, and L u for any linear L, which is summed up on the way to what
            it is of the solution; no sample may depend on another.
        target: (B, ..).
        steps: most steps, at least 1.
        tolerance: of the residual, relative to the target.
        learned: whether K is of a network's derivatives, which are symmetric only so far. A sample then is done, too,
            when its residual is no longer orthogonal to the first: further steps would follow errors of K. The first
            step in which that shows is the second, and it is kept: on trained networks it still gains
            (benchmarks/conditional_models.py).
        values: n, how many values of a target are not zero anyway, () or (B,), if the target is a draw from N(0, K) as
            far as K is right. Its mean square is then about tr K / n, and at most target' K target / |target|^2, but by
            lot. What it has beyond is the excess: an error that K does not know of, as of a network that has learned
            little, which would be blown up along directions in which K is small. None: K is right, there is no excess.

    Returns:
        A :class:`Solved`.
    """
    solution, residual, direction, carried = torch.zeros_like(target), target, target, None
    size = inner(residual, residual)
    enough = tolerance**2 * size
    going = size > 0
    first, excess = size, torch.zeros_like(size)
    taken = torch.zeros(len(target), dtype=torch.int64, device=target.device)
    for i in range(steps):
        if i and target.device.type == "cpu" and not bool(going.any()):
            break
        image, aside = operator(direction)
        curvature = inner(direction, image)
        if i == 0 and values is not None:
            claimed = (1 + BY_LOT * (2 / values).sqrt()) * curvature.clamp_min(0) / size.where(going, 1)
            excess = (size / values - claimed).clamp_min(0)
        image = image + align(excess, target).to(image.dtype) * direction
        curvature = curvature + excess * inner(direction, direction)
        going = going & (curvature > 0)
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
        if learned:
            going = going & (inner(residual, target).square() <= ORTHOGONAL**2 * size * first)
    assert carried is not None  # there is at least one step
    return Solved(solution, carried, taken)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample, (B,) float64."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64)
