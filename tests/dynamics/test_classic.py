"""VP, VE, sub-VP and CLD: formulas against their own SDEs, published constants, and GFDM without augmentation."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from common.dynamics import CLD, VE, VP, SubVP
from gfdm.dynamics import FVE, FVP
from tests.dynamics.members import build

T = torch.cat([torch.logspace(-5, -1, 20, dtype=torch.float64), torch.linspace(0.15, 1, 20, dtype=torch.float64)])


@pytest.mark.parametrize("hurst", [0.1, 0.9])
@pytest.mark.parametrize(("member", "classic"), [(FVP, VP), (FVE, VE)])
def test_without_augmentation_gfdm_is_the_classical_process(member, classic, hurst):
    law, reference = member(hurst, 0).moments(T), classic().moments(T)
    for field in ("mean", "cov", "weight", "scale", "std", "sigma", "complement"):
        assert torch.allclose(getattr(law, field), getattr(reference, field), rtol=2e-9, atol=1e-300), field


@pytest.mark.parametrize("constants", [(0.0, 7.0), (3.0, 3.0), (0.1, 20.0)])
def test_vp_constants(constants):
    low, high = constants
    for t in (1e-4, 0.3, 1.0):
        total = quad(lambda s: low + (high - low) * s, 0, t, epsrel=1e-13)[0]
        law = VP(low, high).moments(torch.tensor([t], dtype=torch.float64))
        assert law.scale.item() == pytest.approx(math.exp(-total / 2), rel=1e-12)
        assert law.std.item() == pytest.approx(math.sqrt(-math.expm1(-total)), rel=1e-12)
        sub = SubVP(low, high).moments(torch.tensor([t], dtype=torch.float64))
        assert sub.std.item() == pytest.approx(-math.expm1(-total), rel=1e-12)  # score-SDE eq. 29


@pytest.mark.parametrize("ends", [(0.01, 50.0), (0.002, 80.0)])
def test_ve_constants(ends):
    law = VE(*ends).moments(torch.tensor([1e-6, 0.5, 1.0], dtype=torch.float64))
    assert law.scale.tolist() == [1.0, 1.0, 1.0]
    want = [ends[0] * (ends[1] / ends[0]) ** 1e-6, math.sqrt(ends[0] * ends[1]), ends[1]]
    assert law.std.tolist() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "heat-5x7"])
def test_formulas_differentiate_to_the_sde(name):
    # f = d log m / dt and g^2 = 2 sc^2 d log sigma / dt, end points included
    dynamics = build(name)
    t = torch.cat([T, torch.ones(1, dtype=torch.float64)]).requires_grad_()
    ones = torch.ones((len(t), *dynamics.basis.modes), dtype=torch.float64)
    modes = ones[0].numel()

    def derivative(values: torch.Tensor) -> torch.Tensor:
        if not values.requires_grad:  # constant in time
            return torch.zeros_like(ones)
        columns = values.reshape(len(t), -1)
        slopes = [torch.autograd.grad(columns[:, k].sum(), t, retain_graph=True)[0] for k in range(modes)]
        return torch.stack(slopes, 1).reshape(ones.shape)

    law = dynamics.moments(t)
    rate = derivative(dynamics.noise_level(t))
    assert torch.allclose(dynamics.drift(t), derivative(dynamics.log_scale(t)), rtol=1e-11, atol=1e-14)
    assert torch.allclose(dynamics.diffusion(t).square(), 2 * law.std.square() * rate, rtol=1e-10, atol=0)


def critically_damped(beta: float, mass: float, share: float, t: float):
    """(M, S, sigma) of CLD in 60 digits: F has the double eigenvalue -c, so exp(F u) = exp(-c u) (1 + (F + c) u)."""
    mp = pytest.importorskip("mpmath")
    mp.mp.dps = 60
    beta, mass, share, t = mp.mpf(beta), mp.mpf(mass), mp.mpf(share), mp.mpf(t)
    friction = 2 * mp.sqrt(mass)
    rate = beta * friction / mass / 2
    upper, lower = beta / mass, -beta

    def flow(u):
        return mp.exp(-rate * u) * mp.matrix([[1 + rate * u, upper * u], [lower * u, 1 - rate * u]])

    # exp(F u) G = exp(-c u) (constant + linear u), and int_0^t u^n exp(-2 c u) du has a closed form
    kick = mp.sqrt(2 * friction * beta)
    constant, linear = (mp.mpf(0), kick), (upper * kick, -rate * kick)

    def integral(n):
        return mp.gammainc(n + 1, 0, 2 * rate * t) / (2 * rate) ** (n + 1)

    cov = flow(t) * mp.diag([0, share * mass]) * flow(t).T
    for i in range(2):
        for j in range(2):
            cov[i, j] += constant[i] * constant[j] * integral(0) + linear[i] * linear[j] * integral(2)
            cov[i, j] += (constant[i] * linear[j] + linear[i] * constant[j]) * integral(1)
    mean = flow(t)[:, 0]
    solved = mp.lu_solve(cov, mean)
    return mean, cov, 1 / mp.sqrt(mean[0] * solved[0] + mean[1] * solved[1])


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-3, 0.05, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("constants", [(4.0, 0.25, 0.04), (2.0, 1.0, 1.0), (40.0, 0.25, 0.04)])
def test_cld_is_the_60_digit_one(constants, t):
    mean, cov, sigma = critically_damped(*constants, t)
    law = CLD(*constants).moments(torch.tensor([t], dtype=torch.float64))
    deviation = np.sqrt([float(cov[0, 0]), float(cov[1, 1])])
    want = np.array([[float(cov[i, j]) for j in range(2)] for i in range(2)])
    assert np.abs((law.cov[0].numpy() - want) / np.outer(deviation, deviation)).max() < 1e-9
    assert np.allclose(law.mean[0], [float(mean[0]), float(mean[1])], rtol=1e-8, atol=1e-12)
    assert law.sigma.item() == pytest.approx(float(sigma), rel=1e-7 if t < 1e-4 else 1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VP(2.0, 1.0), "0 <= beta_min <= beta_max"),
        (lambda: VP(0.0, 0.0), "beta_max must be above 0"),
        (lambda: SubVP(-1.0, 1.0), "0 <= beta_min <= beta_max; got beta_min=-1"),
        (lambda: VE(0.0, 1.0), "0 < sigma_min < sigma_max; got sigma_min=0"),
        (lambda: VE(2.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: VE(1.0, math.inf), "0 < sigma_min < sigma_max"),
        (lambda: VP(math.nan, 1.0), "0 <= beta_min <= beta_max"),
        (lambda: CLD(beta=0.0), "beta must be above 0 and finite, got 0"),
        (lambda: CLD(mass=-1.0), "mass must be above 0 and finite, got -1"),
        (lambda: CLD(initial_share=0.0), "initial_share must be above 0 and finite, got 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
