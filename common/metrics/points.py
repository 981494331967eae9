"""Figures about two sets of points in a feature space, in float64; each knows nothing of images or networks.

================  =============================================================================================
figure            source
================  =============================================================================================
Frechet distance  Dowson, Landau (1982); on Inception features the FID of Heusel et al. (2017), eq. 6
KID               Binkowski et al. (2018), eq. 4: unbiased MMD^2 under the kernel (x.y / d + 1)^3
sliced W2         Bonneel et al. (2015): mean over directions of the squared W2 distance of the projections
precision, ..     Kynkaanniemi et al. (2019), eq. 1 (and recall); Naeem et al. (2020), eq. 3, 4 (density, coverage)
Vendi             Friedman, Dieng (2023), eq. 2, under the cosine kernel
RKE               Jalali, Li, Farnia (2023): the same with Renyi's entropy of order 2
================  =============================================================================================
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from common.metrics.stored import PointSet

# points that are held in float64 at once, so that memory does not grow with their number; sums over them are kept in
# place: small results between large ones that are freed would leave holes that nothing fits
ROWS = 1024
NEIGHBOURS = 5  # of precision, recall, density and coverage
DIRECTIONS = 512  # of sliced W2
QUANTILES = 2048  # at which two sets of different sizes are compared
PROJECTED = 2**20  # numbers that are sorted at once: all points on some directions


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of points, float64; unbiased, as pytorch-fid's mu and sigma."""

    mean: Tensor
    cov: Tensor


def moments(points: PointSet) -> Moments:
    """Mean and covariance of points (N, D), N at least 2."""
    mean = torch.zeros(points.shape[1], dtype=torch.float64)
    for rows in points.split(ROWS):
        mean += rows.double().sum(0)
    mean /= len(points)
    cov = torch.zeros(points.shape[1], points.shape[1], dtype=torch.float64)
    for rows in points.split(ROWS):
        off = rows.double() - mean
        cov.addmm_(off.T, off)
    return Moments(mean, cov / (len(points) - 1))


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(matrix)
    half: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return half


def frechet(one: Moments, other: Moments, half: Tensor | None = None) -> float:
    """Squared Frechet (W2) distance of two normal laws: |m - m'|^2 + tr(S + S' - 2 (S'^1/2 S S'^1/2)^1/2).

    Args:
        one: of one law.
        other: of the other.
        half: :func:`root` of the other's covariance, if it is known.
    """
    half = root(other.cov) if half is None else half
    mixed = torch.linalg.eigvalsh(half @ one.cov @ half).clamp_min(0).sqrt().sum()
    return max(0.0, float((one.mean - other.mean).square().sum() + one.cov.trace() + other.cov.trace() - 2 * mixed))


def frechet_to(points: PointSet, other: Moments, half: Tensor | None = None) -> float:
    """:func:`frechet` of the moments of points (N, D); of N x N matrices if there are fewer points than dimensions."""
    if len(points) > points.shape[1]:
        return frechet(moments(points), other, half)
    few = points[:].double()
    mean = few.mean(0)
    off = (few - mean) / (len(few) - 1) ** 0.5  # S = off' off, so S'^1/2 S S'^1/2 has the values of off S' off'
    mixed = torch.linalg.eigvalsh(off @ other.cov @ off.T).clamp_min(0).sqrt().sum()
    return max(0.0, float((mean - other.mean).square().sum() + off.square().sum() + other.cov.trace() - 2 * mixed))


def kid(points: PointSet, others: PointSet, among_others: float | None = None) -> float:
    """Unbiased squared MMD under (x.y / d + 1)^3; below 0 by chance if the laws are equal.

    Args:
        points: (N, D), N at least 2.
        others: (M, D), M at least 2.
        among_others: :func:`kernel_mean` of the others, if it is known.
    """
    among = kernel_mean(others) if among_others is None else among_others
    between = float(_kernel_sum(points, others)) / (len(points) * len(others))
    return kernel_mean(points) + among - 2 * between


def kernel_mean(points: PointSet) -> float:
    """Mean of the kernel over all pairs of different points (N, D), N at least 2."""
    own = sum(float(((rows.double().square().mean(1) + 1) ** 3).sum()) for rows in points.split(ROWS))
    return float(_kernel_sum(points, points) - own) / (len(points) * (len(points) - 1))


def _kernel_sum(points: PointSet, others: PointSet) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for rows in points.split(ROWS):
        for columns in others.split(ROWS):
            total += (rows.double() @ columns.double().T).div_(points.shape[1]).add_(1).pow_(3).sum()
    return total


def directions(dim: int, count: int, seed: int) -> Tensor:
    """Random unit vectors (D, count), float64: a function of the seed."""
    drawn = torch.randn(dim, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=0)


def sliced_w2(points: PointSet, others: PointSet, count: int = DIRECTIONS, seed: int = 0) -> float:
    """Mean over random directions of the squared W2 distance between projections.

    Sets of one size are matched point by point; others at 2,048 quantiles.

    Args:
        points: (N, D).
        others: (M, D).
        count: number of directions.
        seed: of the directions.
    """
    size = len(points) if len(points) == len(others) else QUANTILES
    return sliced_w2_to(points, slices(others, count, seed, size), seed)


def sliced_w2_to(points: PointSet, of_others: Tensor, seed: int = 0) -> float:
    """:func:`sliced_w2` of points (N, D) to others whose :func:`slices` (K, Q) with the same seed are known."""
    return float((slices(points, len(of_others), seed, of_others.shape[1]) - of_others).square().mean())


def slices(points: PointSet, count: int = DIRECTIONS, seed: int = 0, size: int = QUANTILES) -> Tensor:
    """Quantiles of projections of points (N, D) onto random directions, at the middles of equal parts: all if Q = N.

    Args:
        points: (N, D).
        count: number of directions, K.
        seed: of the directions.
        size: number of quantiles, Q.

    Returns:
        (K, Q) float64.
    """
    onto, found = directions(points.shape[1], count, seed).T, torch.empty(count, size, dtype=torch.float64)
    at_once = max(1, PROJECTED // max(1, len(points)))  # all projections of many points would not fit into memory
    for some, law in zip(onto.split(at_once), found.split(at_once), strict=True):
        law.copy_(quantiles(_projected(points, some), size))
    return found


def _projected(points: PointSet, onto: Tensor) -> Tensor:
    """Projections (K, N) of points (N, D) onto directions (K, D)."""
    found, start = torch.empty(len(onto), len(points), dtype=torch.float64), 0
    for rows in points.split(ROWS):
        found[:, start : start + len(rows)] = onto @ rows.double().T
        start += len(rows)
    return found


def quantiles(values: Tensor, size: int = QUANTILES) -> Tensor:
    """Quantiles (K, Q) of values (K, N) at the middles of equal parts: all if Q = N."""
    count = values.shape[1]
    places = ((torch.arange(size, dtype=torch.float64) + 0.5) / size * count).long()
    return values.sort(1).values[:, places.clamp_max(count - 1)]


class Manifolds(NamedTuple):
    """Shares in [0, 1], density from 0 on; see :func:`manifolds`."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(
    drawn: PointSet, real: PointSet, neighbours: int = NEIGHBOURS, of_real: Tensor | None = None
) -> Manifolds:
    """How the balls around points that reach to their k-th neighbour cover those of the other set.

    precision: share of drawn points inside a ball of a real one. recall: the other way round. density: mean number of
    real balls around a drawn point, over k. coverage: share of real balls with a drawn point inside.

    Args:
        drawn: (N, D), N above ``neighbours``.
        real: (M, D), M above ``neighbours``.
        neighbours: k.
        of_real: :func:`radii` of the real points, if they are known.
    """
    of_real = radii(real, neighbours) if of_real is None else of_real
    of_drawn = radii(drawn, neighbours)
    inside, recalled = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    precise, counted = 0, 0
    for rows, reach in zip(drawn.split(ROWS), of_drawn.split(ROWS), strict=True):
        covered, start = torch.zeros(len(rows), dtype=torch.bool), 0
        for distances in distances_to(rows, real):
            these = slice(start, start + distances.shape[1])
            near = distances <= of_real[these]
            covered |= near.any(1)
            counted += int(near.sum())
            inside[these] |= near.any(0)
            recalled[these] |= (distances <= reach.unsqueeze(1)).any(0)
            start = these.stop
        precise += int(covered.sum())
    return Manifolds(
        precise / len(drawn),
        float(recalled.double().mean()),
        counted / (neighbours * len(drawn)),
        float(inside.double().mean()),
    )


def radii(points: PointSet, neighbours: int) -> Tensor:
    """Distances (N,) of points (N, D) to their k-th nearest other point."""
    found, start = torch.empty(len(points), dtype=torch.float64), 0
    for rows in points.split(ROWS):
        smallest = torch.empty(len(rows), 0, dtype=torch.float64)  # so far, the point itself among them
        for distances in distances_to(rows, points):
            together = torch.cat([smallest, _smallest(distances, neighbours + 1)], 1)
            smallest = _smallest(together, neighbours + 1)
        found[start : start + len(rows)] = smallest.amax(1)
        start += len(rows)
    return found


def _smallest(values: Tensor, count: int) -> Tensor:
    """The smallest numbers (B, at most count) in every row of values (B, N)."""
    return values.topk(min(count, values.shape[1]), largest=False, sorted=False).values


def distances_to(rows: Tensor, points: PointSet) -> Iterator[Tensor]:
    """Distances (B, M) float64 of points (B, D) to others (N, D), some of these at a time and in order."""
    rows = rows.double()
    for some in points.split(ROWS):
        yield torch.cdist(rows, some.double())


def spectrum(points: PointSet) -> Tensor:
    """Eigenvalues, summing to 1, of the cosine kernel between points (N, D), over N.

    Of N x N if there are fewer points than dimensions, else of D x D, which has the same ones but for zeros.
    """
    values: Tensor = torch.linalg.eigvalsh(gram(points) / len(points)).clamp_min(0)
    return values


def gram(points: PointSet) -> Tensor:
    """Products of all points (N, D) of length 1 (N, N); of all dimensions (D, D), if there are fewer of them."""
    if len(points) < points.shape[1]:
        unit = torch.nn.functional.normalize(points[:].double(), dim=1)
        return unit @ unit.T
    together = torch.zeros(points.shape[1], points.shape[1], dtype=torch.float64)
    for rows in points.split(ROWS):
        unit = torch.nn.functional.normalize(rows.double(), dim=1)
        together.addmm_(unit.T, unit)
    return together


def vendi(points: PointSet) -> float:
    """Effective number of different points: exp of the entropy of :func:`spectrum`."""
    values = spectrum(points)
    values = values[values > 0]
    return float((-(values * values.log()).sum()).exp())


def rke(points: PointSet) -> float:
    """Effective number of modes: 1 over the sum of squares of :func:`spectrum`, without its eigenvalues."""
    return len(points) ** 2 / float(gram(points).square().sum())
