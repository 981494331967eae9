"""Markov approximation of fractional Brownian motion (GFDM, arXiv 2310.17638, section 3 and proposition 5).

    B^H_t ~ sum_k omega_k Y^k_t,      dY^k = -gamma_k Y^k dt + dW

type-II (Riemann-Liouville) fractional Brownian motion on [0, horizon]; the weights minimise the mean squared error.
"""

import torch
from torch import Tensor

from common.refusal import Refusal

GAMMA_LIMIT = 1e4  # of the rates: steps of integration grow with them
CONDITION_LIMIT = 1e12  # of the weights' normal equations: beyond it only a few digits of them are left


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
        Refusal: for H outside (0, 1), a horizon that is not above 0, or so many rates that the solution would
            keep only a few digits.
    """
    if not 0 < hurst < 1:
        raise Refusal(f"must lie in (0, 1), got {hurst}", "hurst")
    if not 0 < horizon < float("inf"):
        raise Refusal(f"must be above 0 and finite, got {horizon}", "horizon")
    gamma = gamma.double()
    if len(gamma) == 0:
        return gamma
    pair = gamma.unsqueeze(0) + gamma.unsqueeze(1)
    matrix = (horizon + torch.expm1(-pair * horizon) / pair) / pair
    if torch.linalg.cond(matrix) > CONDITION_LIMIT:
        raise Refusal(
            f"{len(gamma)} is too large: the optimal weights would lose all precision in float64 "
            "(with gamma_max=20 up to 6 keep six digits or more)",
            "num_aug",
        )
    low, high = hurst + 0.5, hurst + 1.5
    order = torch.tensor([low, high], dtype=torch.float64)
    gammainc_low, gammainc_high = (torch.special.gammainc(a, gamma * horizon) for a in order)
    right = horizon * gamma**-low * gammainc_low - low * gamma**-high * gammainc_high
    found: Tensor = torch.linalg.solve(matrix, right)
    return found
