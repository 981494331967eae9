"""Times of renoising, chosen on a consistent network by how near few samples come to real ones.

The middle time of two evaluations is chosen first, then the two times of three on either side of it, then the outer
ones of four around these: candidates are equal steps of an angle of the noise level (``grids.level_angle``) between
what is chosen already. So the times are shares 1/2; 1/3, 2/3; 1/4, 1/2, 3/4 of one density of nodes, which also lays
those of more evaluations. All candidates see the same samples and noise; an answer is computed once, and what follows
is noised from it.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.denoiser import X0Denoiser
from common.dynamics import LinearDynamics
from common.refusal import Refusal
from common.samplers.base import Posterior
from common.samplers.grids import Density, level_angle, position, stepped, time_at_angle
from common.samplers.noise import NoiseSource
from common.samplers.renoise import noised
from common.samplers.sampling import ending

FOLLOWED = 512  # samples
AT_ONCE = 64  # samples computed together
MIDDLES, OTHERS = 9, 3  # candidates of the middle time, and of every other one
SHARES = (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1)
EVALUATIONS = 1 + MIDDLES + 2 * OTHERS + OTHERS + 2 * OTHERS**2  # of each sample, in all, at most

Times = tuple[float, ...]


def choose(
    dynamics: LinearDynamics,
    denoiser: X0Denoiser,
    shape: tuple[int, ...],
    distance: Callable[[Tensor], float],
    *,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    at_once: int = AT_ONCE,
    on_block: Callable[[], None] = lambda: None,
) -> Density:
    """Choose the times of 2, 3 and 4 evaluations.

    Args:
        dynamics: a dynamics whose noise level never falls, or a ``scalar_path()``.
        denoiser: any callable (v, t, labels) to the end of the path through v.
        shape: data shape (N, C, *S) of the samples; 512 are enough.
        distance: how far samples (N, C, *S) are from real ones.
        seeds: one per sample, other ones than those of samples that figures are told of.
        labels: classes (N,) int64, or None.
        at_once: samples computed together.
        on_block: called after every evaluation of so many samples.

    Returns:
        The density of nodes with these times.

    Raises:
        Refusal: if the noise level falls, or no time gives finite samples.
    """
    dynamics.require_monotone("a choice of times")
    t_end = ending(dynamics, None)
    ends = torch.tensor([dynamics.horizon, t_end], dtype=torch.float64, device=dynamics.device)
    first, last = level_angle(dynamics, ends).tolist()
    answers = _Answers(dynamics, denoiser, shape, seeds, labels, at_once, on_block)

    def far(*angles: float) -> float:
        times = time_at_angle(dynamics, torch.tensor(angles, dtype=torch.float64, device=dynamics.device))
        found = distance(answers(tuple(times.tolist())))
        return found if found == found else torch.inf

    middle = min(_between(first, last, MIDDLES), key=far)
    if far(middle) == torch.inf:
        raise Refusal("measured: samples of this network are not finite; take another grid", "grid")
    above, below = _between(first, middle, OTHERS), _between(middle, last, OTHERS)
    upper, lower = min(itertools.product(above, below), key=lambda pair: far(*pair))
    above, below = _between(first, upper, OTHERS), _between(lower, last, OTHERS)
    top, bottom = min(itertools.product(above, below), key=lambda pair: far(pair[0], middle, pair[1]))
    inner = torch.tensor([top, upper, middle, lower, bottom], dtype=torch.float64, device=dynamics.device)
    times = torch.cat([ends[:1], time_at_angle(dynamics, inner), ends[1:]])
    return stepped(position(dynamics, times).tolist(), SHARES)


def _between(first: float, last: float, count: int) -> list[float]:
    """So many numbers between two, at equal distances."""
    return torch.linspace(first, last, count + 2, dtype=torch.float64)[1:-1].tolist()


class _Answers:
    """Samples renoised at some times, as ``Renoise`` draws them from the same seeds; an answer is computed once."""

    def __init__(
        self,
        dynamics: LinearDynamics,
        denoiser: X0Denoiser,
        shape: tuple[int, ...],
        seeds: Sequence[int],
        labels: Tensor | None,
        at_once: int,
        on_block: Callable[[], None],
    ) -> None:
        self._dynamics, self._denoiser, self._shape, self._on_block = dynamics, denoiser, shape[1:], on_block
        self._blocks = [range(i, min(i + at_once, shape[0])) for i in range(0, shape[0], at_once)]
        self._seeds, self._labels = seeds, labels
        self._known: dict[Times, Tensor] = {}

    @torch.no_grad()
    def __call__(self, times: Times) -> Tensor:
        """Samples (N, C, *S) on the CPU after an evaluation at T and one at each of the times."""
        if times not in self._known:
            before = self(times[:-1]) if times else None
            self._known[times] = torch.cat([self._of(block, times, before) for block in self._blocks])
        return self._known[times]

    def _of(self, block: range, times: Times, before: Tensor | None) -> Tensor:
        dynamics, part, size = self._dynamics, slice(block.start, block.stop), len(block)
        components, dtype = dynamics.num_components, torch.get_default_dtype()
        seeds = self._seeds[part]
        source = NoiseSource(seeds, self._shape, dynamics.device, dtype, components)  # again: none of it is kept
        noise = source.start(components)
        for _ in times:
            noise = source.step()
        t = torch.tensor([times[-1] if times else dynamics.horizon], dtype=torch.float64, device=dynamics.device)
        if before is None:
            z = dynamics.prior.sample((size, *self._shape), noise)
        else:
            z = noised(dynamics, before[part].to(dynamics.device), t, noise)
        labels = None if self._labels is None else self._labels[part]
        found = Posterior(dynamics, self._denoiser, labels)(z, t).cpu()
        self._on_block()
        return found
