"""Markov approximation of fractional Brownian motion (GFDM, arXiv 2310.17638, section 3 and proposition 5).

    B^H_t ~ sum_k omega_k Y^k_t,      dY^k = -gamma_k Y^k dt + dW

type-II (Riemann-Liouville) fractional Brownian motion on [0, horizon]; the weights minimise the mean squared error.
"""

import mpmath
import torch
from torch import Tensor

from common.refusal import Refusal

GAMMA_LIMIT = 1e4  # of the rates: steps of integration grow with them
DIGITS = 40  # of the normal equations, whose condition grows from 25 at K = 2 to 5e9 at K = 6 and 1e30 at K = 12
MOST_RATES = 12
ENOUGH = "up to 6 work with gamma_max=20, fewer if gamma_max is near 1 (published: at most 5)"
MOST_WEIGHT = 1e4  # larger weights nearly cancel, and float64 keeps few digits of the variance of their sum


def gamma_grid(num_aug: int, gamma_max: float = 20.0) -> Tensor:
    """Rates of the augmenting processes, geometric around 1: gamma_k = r^(k - (K+1)/2), r = gamma_max^(2/(K-1)).

    Args:
        num_aug: K, at least 0.
        gamma_max: largest rate, above 1 (its inverse is the smallest), at most 1e4; without effect for K <= 1.

    Returns:
        (K,) float64, increasing.

    Raises:
        Refusal: for K < 0, or gamma_max out of range.
    """
    if num_aug < 0:
        raise Refusal(f"must be at least 0, got {num_aug}", "num_aug")
    if not 1 < gamma_max <= GAMMA_LIMIT:
        raise Refusal(f"must be above 1 and at most {GAMMA_LIMIT:g}, got {gamma_max}", "gamma_max")
    if num_aug > MOST_RATES:
        raise Refusal(f"{num_aug} is too large: {ENOUGH}", "num_aug")
    if num_aug <= 1:
        return torch.ones(num_aug, dtype=torch.float64)
    k = torch.arange(1, num_aug + 1, dtype=torch.float64)
    return gamma_max ** (2 / (num_aug - 1) * (k - (num_aug + 1) / 2))


def optimal_omega(gamma: Tensor, hurst: float, horizon: float = 1.0) -> Tensor:
    """Weights of the best approximation in mean square over [0, horizon]: A omega = b (proposition 5).

    Args:
        gamma: rates (K,), distinct and above 0.
        hurst: H in (0, 1).
        horizon: T, above 0.

    Returns:
        (K,) float64.

    Raises:
        Refusal: for H outside (0, 1), a horizon that is not above 0, or so many rates that the weights nearly cancel.
    """
    if not 0 < hurst < 1:
        raise Refusal(f"must lie in (0, 1), got {hurst}", "hurst")
    if not 0 < horizon < float("inf"):
        raise Refusal(f"must be above 0 and finite, got {horizon}", "horizon")
    rates: list[float] = gamma.tolist()
    if len(rates) > MOST_RATES or len(set(rates)) < len(rates):
        raise Refusal(f"{len(rates)} is too large, or two rates are one: {ENOUGH}", "num_aug")
    if not rates:
        return gamma.double()
    with mpmath.workdps(DIGITS):
        g, end = [mpmath.mpf(rate) for rate in rates], mpmath.mpf(horizon)
        low, high = hurst + mpmath.mpf("0.5"), hurst + mpmath.mpf("1.5")
        matrix = mpmath.matrix([[(end + mpmath.expm1(-(a + b) * end) / (a + b)) / (a + b) for b in g] for a in g])
        right = [
            end * a**-low * mpmath.gammainc(low, 0, a * end, regularized=True)
            - low * a**-high * mpmath.gammainc(high, 0, a * end, regularized=True)
            for a in g
        ]
        weights = [float(weight) for weight in mpmath.lu_solve(matrix, mpmath.matrix(right))]
    largest = max(map(abs, weights))
    if largest > MOST_WEIGHT:
        raise Refusal(
            f"{len(rates)} is too large: the weights of its processes, up to {largest:.0e}, would nearly cancel; "
            f"{ENOUGH}",
            "num_aug",
        )
    return torch.tensor(weights, dtype=torch.float64)
