"""Numbers of samples (N, C, *S) themselves, in float64; each knows nothing of networks or files.

S has one or two axes. Energies per octave are those of the cosine transform, as samples are not periodic: their even
continuation has no jump at the edges (Denis, Cote, Laprise 2002, Monthly Weather Review 130).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

AT_ONCE = 256  # samples that are transformed together
RESOLUTION = 1e-6  # of float32 on the scale [-1, 1]
FLOOR = 0.01  # of an equal share of the energy: less than that is not told from nothing
ROUNDING = 1 + 1e-12  # so that no frequency falls short of the octave that it begins
PER_AXIS = {1: 8, 2: 4}  # parts of a grid with so many axes
SHARES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)  # of a sample's values below its quantiles


def by_blocks(numbers: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Numbers of samples, float64, computed a block at a time."""
    return torch.cat([numbers(some.double()) for some in samples.split(AT_ONCE)])


def octave_edges(grid: Sequence[int]) -> list[float]:
    """Lower edges of the octaves of a grid S in cycles per longest side: 0.5, 1, 2, .. up to the highest frequency."""
    highest = max(grid) / 2 * math.hypot(*((side - 1) / side for side in grid)) * ROUNDING
    return [2.0**i for i in range(-1, math.floor(math.log2(highest)) + 1)]


def octaves(samples: Tensor) -> Tensor:
    """Energy (N, C, O) in every octave of the absolute frequency; their sum is the variance within a sample.

    Args:
        samples: (N, C, *S).

    Returns:
        As many octaves as :func:`octave_edges` has.
    """
    from scipy.fft import dctn  # only here: SciPy takes a while to import

    grid = samples.shape[2:]
    cycles = torch.zeros(grid, dtype=torch.float64)
    for axis, side in enumerate(grid):
        one = torch.arange(side, dtype=torch.float64) / (2 * side) * max(grid)
        cycles = cycles + one.square().reshape([-1 if i == axis else 1 for i in range(len(grid))])
    edges = torch.tensor(octave_edges(grid), dtype=torch.float64)
    places = torch.bucketize(cycles.sqrt().flatten() * ROUNDING, edges, right=True) - 1  # -1: the mean
    inside = torch.nn.functional.one_hot(places.clamp_min(0), len(edges)).double() * (places >= 0).unsqueeze(1)

    def energies(some: Tensor) -> Tensor:
        found = torch.from_numpy(dctn(some.numpy(), axes=tuple(range(2, some.ndim)), norm="ortho"))
        return found.square().flatten(2) @ inside / math.prod(grid)

    return by_blocks(energies, samples)


def part_means(samples: Tensor) -> Tensor:
    """Means (N, C, P) in eight parts of a line, 4 x 4 of a plane; fewer if there are fewer points."""
    grid = samples.shape[2:]
    rows, columns = (min(side, PER_AXIS[len(grid)]) for side in (grid if len(grid) == 2 else (1, *grid)))

    def means(some: Tensor) -> Tensor:
        plane = some if len(grid) == 2 else some.unsqueeze(2)
        return torch.nn.functional.adaptive_avg_pool2d(plane, (rows, columns)).flatten(2)

    return by_blocks(means, samples)


def lags(grid: Sequence[int]) -> list[tuple[int, int]]:
    """Axes and lags 1, 2, 4, .. up to half of the side."""
    return [(axis, 2**i) for axis, side in enumerate(grid) for i in range((side // 2).bit_length())]


def lagged(samples: Tensor) -> Tensor:
    """Mean products (N, C, 1 + K) of values and those a lag away, the squares first; K as :func:`lags` has them."""

    def products(some: Tensor) -> Tensor:
        found = [some.square().flatten(2).mean(2)]
        for axis, lag in lags(some.shape[2:]):
            length = some.shape[axis + 2] - lag
            product = some.narrow(axis + 2, 0, length) * some.narrow(axis + 2, lag, length)
            found.append(product.flatten(2).mean(2))
        return torch.stack(found, 2)

    return by_blocks(products, samples)


def shape_of(values: Tensor) -> Tensor:
    """Mean, standard deviation, skewness, excess kurtosis (.., 4) of values (.., L); of a constant the latter are 0."""
    values = values.double()
    mean = values.mean(-1, keepdim=True)
    off = values - mean
    deviation = off.square().mean(-1).sqrt()
    scaled = off / deviation.where(deviation > 0, 1.0).unsqueeze(-1)
    skewness, kurtosis = scaled.pow(3).mean(-1), scaled.pow(4).mean(-1) - 3
    return torch.stack([mean.squeeze(-1), deviation, skewness, kurtosis.where(deviation > 0, 0.0)], -1)


def log_ratios(energy: Tensor, real: Tensor) -> Tensor:
    """log2 of mean energies (K,) over real ones, each at least a hundredth of an equal share of all the real energy.

    Args:
        energy: (N, K), at least 0.
        real: (M, K), at least 0.
    """
    expected = real.mean(0)
    floor = (FLOOR * expected.mean()).clamp_min(RESOLUTION**2)
    ratios: Tensor = (energy.mean(0).clamp_min(floor) / expected.clamp_min(floor)).log2()
    return ratios


def correlations(products: Tensor) -> Tensor:
    """Correlations (.., K) of mean products (.., 1 + K) as :func:`lagged` gives them; 0 if all squares are 0."""
    square = products[..., :1]
    return products[..., 1:] / square.where(square > 0, 1.0)


def description(samples: Tensor) -> Tensor:
    """Numbers (N, D) that say what a sample looks like: moments, quantiles, energies per octave, lags and parts.

    They are not scaled: they are for trees, which look at their order only.
    """

    def of(some: Tensor) -> Tensor:
        lines = some.flatten(2)
        rising = lines.sort(2).values
        off = some - lines.mean(2).reshape(*lines.shape[:2], *[1] * (some.ndim - 2))
        found = [
            shape_of(lines),
            rising[..., [0, *(int(share * lines.shape[2]) for share in SHARES), -1]],
            octaves(some),
            correlations(lagged(off)),
            part_means(some),
            part_means(off.square()),
        ]
        return torch.cat([one.flatten(1) for one in found], 1)

    return by_blocks(of, samples)
