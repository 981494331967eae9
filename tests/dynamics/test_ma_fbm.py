"""MA-fBM against 100-digit numbers, quadrature, and the limit of many processes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from gfdm.dynamics import FVE, FVP
from gfdm.ma_fbm import gamma_grid, optimal_omega
from tests import oracles

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ma_fbm.json").read_text())["cases"]
CASES = [pytest.param(case, id=f"H{case['hurst']}-K{case['num_aug']}") for case in GOLDEN]


def relative(got: torch.Tensor, want: list[float] | oracles.Array) -> float:
    reference = np.array(want, dtype=float)
    return float(np.linalg.norm(got.numpy() - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_100_digit_ones(case):
    gamma = gamma_grid(case["num_aug"])
    omega = optimal_omega(gamma, case["hurst"])
    assert gamma.dtype == omega.dtype == torch.float64
    assert relative(gamma, case["gamma"]) < 1e-14
    assert relative(omega, case["omega"]) < (1e-6 if case["num_aug"] == 5 else 1e-9)


@pytest.mark.parametrize("family", ["fvp", "fve"])
@pytest.mark.parametrize("case", CASES)
def test_normalised_weights_are_the_100_digit_ones(case, family):
    dynamics = {"fvp": FVP, "fve": FVE}[family](case["hurst"], case["num_aug"])
    assert relative(dynamics.omega, case[f"omega_{family}"]) < 1e-7
    plain = type(dynamics)(case["hurst"], case["num_aug"], normalize=False)
    assert relative(plain.omega, case["omega"]) < 1e-6


@pytest.mark.parametrize("horizon", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("num_aug", [1, 2, 4])
def test_weights_solve_the_normal_equations_by_quadrature(num_aug, hurst, horizon):
    omega = optimal_omega(gamma_grid(num_aug), hurst, horizon)
    # a short horizon makes the equations worse conditioned
    assert relative(omega, oracles.omegas(hurst, num_aug, horizon)) < (1e-7 if num_aug == 4 and horizon < 1 else 1e-10)


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_weights_minimise_the_squared_error(hurst):
    # E int (B - sum w Y)^2 = int int (kernel of B - sum w exp(-gamma u))^2 du dt, straight from the two kernels
    gamma = gamma_grid(3)
    omega = optimal_omega(gamma, hurst).numpy()

    def cost(weights: np.ndarray) -> float:
        def integrand(x: float) -> float:  # u = x^4 tames u^(2H - 1) at 0; int_u^1 dt gives 1 - u
            u = x**4
            kernel = u ** (hurst - 0.5) / math.gamma(hurst + 0.5)
            return (1 - u) * (kernel - weights @ np.exp(-gamma.numpy() * u)) ** 2 * 4 * x**3

        return quad(integrand, 0, 1, epsabs=1e-13, epsrel=1e-12, limit=200)[0]

    best = cost(omega)
    for k in range(3):
        for factor in (0.99, 1.01):
            other = omega.copy()
            other[k] *= factor
            assert cost(other) > best + 1e-7


def approximation_variance(num_aug: int, hurst: float, t: np.ndarray) -> np.ndarray:
    """Var sum_k w_k Y^k_t = sum_ij w_i w_j (1 - exp(-(g_i + g_j) t)) / (g_i + g_j)."""
    gamma = gamma_grid(num_aug)
    omega = optimal_omega(gamma, hurst).numpy()
    pair = gamma.numpy()[:, None] + gamma.numpy()
    return np.einsum("i,j,tij->t", omega, omega, -np.expm1(-pair * t[:, None, None]) / pair)


@pytest.mark.parametrize(("hurst", "bound"), [(0.3, 0.03), (0.5, 1e-6), (0.7, 0.005), (0.9, 0.005)])
def test_variance_approaches_fractional_brownian_motion(hurst, bound):
    t = np.linspace(0.2, 1, 17)
    few, many = (np.abs(approximation_variance(k, hurst, t) / oracles.fbm_variance(hurst, t) - 1).max() for k in (1, 6))
    assert many < bound
    assert few > 2 * bound


@pytest.mark.parametrize("gamma_max", [1.5, 20.0, 300.0])
@pytest.mark.parametrize("num_aug", range(7))
def test_grid_is_geometric_from_the_inverse_to_gamma_max(num_aug, gamma_max):
    gamma = gamma_grid(num_aug, gamma_max)
    assert gamma.shape == (num_aug,)
    if num_aug == 1:
        assert gamma.tolist() == [1.0]
    if num_aug > 1:
        assert np.allclose(gamma, np.geomspace(1 / gamma_max, gamma_max, num_aug), rtol=1e-13)
        assert gamma[0].item() == pytest.approx(1 / gamma_max, rel=1e-14)
        assert gamma[-1].item() == pytest.approx(gamma_max, rel=1e-14)


def test_no_process_needs_no_weight():
    assert optimal_omega(gamma_grid(0), 0.7).shape == (0,)


BAD = [
    (lambda: gamma_grid(-1), r"num_aug must be at least 0, got -1"),
    (lambda: gamma_grid(2, 1.0), r"gamma_max must be above 1.*got 1\.0"),
    (lambda: gamma_grid(2, -20.0), r"gamma_max must be above 1.*got -20"),
    (lambda: gamma_grid(2, math.inf), r"gamma_max must be above 1 and at most 10000, got inf"),
    (lambda: gamma_grid(2, math.nan), r"gamma_max must be above 1.*got nan"),
    (lambda: optimal_omega(gamma_grid(2), 0.0), r"hurst must lie in \(0, 1\), got 0\.0"),
    (lambda: optimal_omega(gamma_grid(2), 1.0), r"hurst must lie in \(0, 1\), got 1\.0"),
    (lambda: optimal_omega(gamma_grid(2), math.nan), r"hurst must lie in \(0, 1\), got nan"),
    (lambda: optimal_omega(gamma_grid(2), 0.5, 0.0), r"horizon must be above 0 and finite, got 0\.0"),
    (lambda: optimal_omega(gamma_grid(2), 0.5, math.inf), r"horizon must be above 0 and finite, got inf"),
    (lambda: optimal_omega(gamma_grid(12), 0.9), r"num_aug 12 is too large"),
    (lambda: optimal_omega(torch.tensor([1.0, 1.0]), 0.5), r"num_aug 2 is too large, or two rates are one"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_value_out_of_range_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("family", [FVP, FVE])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hurst": 0.0}, r"hurst must lie in \(0, 1\), got 0\.0"),
        ({"hurst": 1.0}, r"hurst must lie in \(0, 1\), got 1\.0"),
        ({"hurst": 1.5, "num_aug": 0}, r"hurst must lie in \(0, 1\), got 1\.5"),
        ({"num_aug": -1}, r"num_aug must be at least 0, got -1"),
        ({"num_aug": 10}, r"num_aug 10 is too large"),
        ({"gamma_max": 1.0}, r"gamma_max must be above 1"),
        ({"marginals": "papers"}, r"marginals must be one of exact, paper, got 'papers'"),
        ({"aug_init_var": 0.0}, r"aug_init_var must be above 0 and at most 100, got 0\.0"),
        ({"aug_init_var": math.nan}, r"aug_init_var must be above 0 and at most 100, got nan"),
    ],
)
def test_fractional_dynamics_refuse_by_name(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FVP(beta_min=2.0, beta_max=1.0), r"0 <= beta_min <= beta_max; got beta_min=2\.0, beta_max=1\.0"),
        (lambda: FVP(beta_min=-0.1), r"0 <= beta_min <= beta_max; got beta_min=-0\.1"),
        (lambda: FVP(beta_min=0.0, beta_max=0.0), r"beta_max must be above 0, got 0"),
        (lambda: FVE(sigma_min=0.0), r"0 < sigma_min < sigma_max; got sigma_min=0\.0"),
        (lambda: FVE(sigma_min=50.0), r"0 < sigma_min < sigma_max; got sigma_min=50\.0, sigma_max=50\.0"),
    ],
)
def test_schedules_refuse_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
