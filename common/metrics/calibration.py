"""How often a truth lies within the band of draws that stand for what is known of it, and how often it should."""

import math

import torch
from torch import Tensor

BAND = (0.05, 0.95)  # quantiles between which a truth is looked for
NODES = 96  # of the quadrature in each of two variables


def covered(truth: Tensor, drawn: Tensor, slack: float = 0.0) -> Tensor:
    """Whether every value lies between the quantiles of its draws, ends included.

    Args:
        truth: (*V).
        drawn: (M, *V); quantiles between two draws are interpolated linearly (type 7 of Hyndman, Fan 1996).
        slack: by how much the band is widened at either end, in the units of the values: half of the step in which
            a truth was stored, which cannot say on which side of a band within that step it lies.

    Returns:
        (*V) bool.
    """
    low, high = band(drawn)
    return (truth >= low - slack) & (truth <= high + slack)


def band(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The quantiles 0.05 and 0.95 of draws (M, *V), both (*V); of any number of values, unlike torch.quantile."""
    rising = drawn.sort(0).values
    ends = []
    for share in BAND:
        place = (len(drawn) - 1) * share
        below = min(math.floor(place), len(drawn) - 1)
        above = min(below + 1, len(drawn) - 1)
        ends.append(rising[below].lerp(rising[above], place - below))
    return ends[0], ends[1]


def exact_coverage(draws: int) -> float:
    """How often a value lies within the band of draws from its own normal law: what a perfect sampler has.

    It is below 0.9, because the ends of a band of few draws are uncertain: 0.81 of 16 draws, 0.88 of 100.

    With P the place (M - 1) q of a quantile, i the whole number above it and f what it is beyond i - 1, the end of the
    band is (1 - f) X_(i) + f X_(i+1). Of uniform draws U_(i+1) is a Beta variate, and U_(i) that times V^(1/i), V
    uniform; the mean of the normal distribution function there is taken by quadrature.

    Args:
        draws: M, at least 1.
    """
    from scipy.special import betaincinv, ndtr, ndtri  # only here: SciPy takes a while to import

    place = (draws - 1) * BAND[0]
    order, share = math.floor(place) + 1, place - math.floor(place)
    if share == 0:
        below = order / (draws + 1)
    else:
        nodes, weights = _unit_quadrature()
        upper = torch.from_numpy(betaincinv(order + 1, draws - order, nodes.numpy())).unsqueeze(1)
        lower = upper * nodes ** (1 / order)
        ends = (1 - share) * torch.from_numpy(ndtri(lower.numpy())) + share * torch.from_numpy(ndtri(upper.numpy()))
        below = float(weights @ torch.from_numpy(ndtr(ends.numpy())) @ weights)
    return 1 - 2 * below  # a normal law is symmetric


def _unit_quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], float64: those of Gauss and Legendre, drawn to the ends, where quantiles diverge."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = map(torch.from_numpy, leggauss(NODES))
    nodes, weights = (nodes + 1) / 2, weights / 2
    for _ in range(2):
        nodes, weights = nodes.square() * (3 - 2 * nodes), weights * 6 * nodes * (1 - nodes)
    return nodes, weights
