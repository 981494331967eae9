"""Exact maps between two times: they compose, invert, carry the covariance, and agree with expm, SciPy and formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from common.dynamics import CLD, VP
from tests import oracles
from tests.dynamics.members import EVERY, build, sde

NAMES = [*EVERY, "fvp-0.9-2-path", "fve-0.9-3-path", "cld-path"]
SPANS = [(1e-5, 1e-3), (1e-3, 0.2), (0.05, 0.4), (0.3, 0.9), (0.9, 1.0), (1e-4, 1.0)]  # in shares of T


def pairs(horizon: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    ends = torch.tensor(SPANS, dtype=torch.float64) * horizon
    return ends[:, 0], ends[:, 1]


def apply(*factors: torch.Tensor) -> torch.Tensor:
    """Product of matrices (B, A, A, *modes)."""
    product = factors[0]
    for factor in factors[1:]:
        product = torch.einsum("bij...,bjk...->bik...", product, factor)
    return product


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> bool:
    """Whether they agree in units of the largest entry of each matrix."""
    size = want.abs().flatten(1, 2).amax(1).reshape(len(want), 1, 1, *want.shape[3:])
    return bool(((got - want).abs() <= tolerance * size).all())


@pytest.mark.parametrize("name", NAMES)
def test_maps_compose(name):
    dynamics = build(name)
    s, t = pairs(dynamics.horizon)
    middle = (s * t).sqrt()
    (whole, noise), (first, early), (second, late) = (
        dynamics.transition(s, t),
        dynamics.transition(s, middle),
        dynamics.transition(middle, t),
    )
    assert close(apply(second, first), whole, 1e-9)
    # a scalar path's diffusion is read from a table's derivative
    assert close(apply(second, early, second.transpose(1, 2)) + late, noise, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_backward_undoes_forward(name):
    dynamics = build(name)
    s, t = pairs(dynamics.horizon)
    (forward, noise), (backward, removed) = dynamics.transition(s, t), dynamics.transition(t, s)
    product = apply(backward, forward)
    identity = torch.zeros_like(product)
    identity.diagonal(dim1=1, dim2=2).fill_(1)
    growth = backward.abs().amax((1, 2), keepdim=True) * forward.abs().amax((1, 2), keepdim=True)  # up to e^20
    assert ((product - identity).abs() <= 1e-13 * growth).all()
    undone = apply(backward, noise, backward.transpose(1, 2))
    assert close(removed, -undone, 1e-6)
    eigenvalues = torch.linalg.eigvalsh(removed.movedim((1, 2), (-2, -1)))
    assert (eigenvalues <= 1e-9 * eigenvalues.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_happens_in_no_time(name):
    dynamics = build(name)
    t = torch.tensor([1e-4, 0.3, dynamics.horizon], dtype=torch.float64)
    propagator, noise = dynamics.transition(t, t)
    identity = torch.zeros_like(propagator)
    identity.diagonal(dim1=1, dim2=2).fill_(1)
    assert torch.equal(propagator, identity)
    assert torch.count_nonzero(noise) == 0


@pytest.mark.parametrize("name", NAMES)
def test_maps_carry_mean_and_covariance(name):
    dynamics = build(name)
    s, t = pairs(dynamics.horizon)
    propagator, noise = dynamics.transition(s, t)
    start, end = dynamics.moments(s), dynamics.moments(t)
    mean = apply(propagator, start.mean.unsqueeze(2))
    assert close(mean, end.mean.unsqueeze(2), 1e-9)
    cov = apply(propagator, start.cov, propagator.transpose(1, 2)) + noise
    assert close(cov, end.cov, 1e-8 if not name.endswith("path") else 1e-7)


@pytest.mark.parametrize("constants", [(4.0, 0.25, 0.04), (1.0, 2.0, 1.0)])
@pytest.mark.parametrize("span", [*SPANS, (0.7, 0.2)])
def test_cld_is_the_matrix_exponential(constants, span):
    reference, h = oracles.cld(*constants), span[1] - span[0]
    flow = expm(reference.F(0.0) * h)
    stationary = np.diag([1.0, constants[1]])  # X and V at rest: their deficit decays with the flow
    kick = stationary - flow @ stationary @ flow.T
    propagator, noise = CLD(*constants).transition(*(torch.tensor([x], dtype=torch.float64) for x in span))
    assert np.allclose(propagator[0], flow, rtol=1e-10, atol=1e-12 * np.abs(flow).max())
    assert np.allclose(noise[0], kick, rtol=1e-10, atol=1e-12 * np.abs(kick).max() + 1e-15)


def test_short_cld_steps_kick_the_data_by_the_third_power_of_time():
    # Q_xx = (2 Gamma beta) (beta / mass)^2 h^3 / 3, Q_xv = .. h^2 / 2, Q_vv = .. h to leading order
    h = 1e-6
    noise = CLD().transition(torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.5 + h], dtype=torch.float64))[1][
        0
    ]
    unit = 2 * 1.0 * 4.0
    want = unit * np.array([[16**2 * h**3 / 3, 16 * h**2 / 2], [16 * h**2 / 2, h]])
    assert np.allclose(noise, want, rtol=1e-4)


@pytest.mark.parametrize("name", ["fvp-0.7-3", "fvp-0.9-5", "fve-0.3-3", "subvp", "edm", "flow"])
@pytest.mark.parametrize("span", SPANS)
def test_maps_are_those_of_scipy(name, span):
    first, last = (share * sde(name).horizon for share in span)
    propagator, noise = build(name).transition(*(torch.tensor([x], dtype=torch.float64) for x in (first, last)))
    flow, cov = oracles.solve(sde(name), np.array([last]), first=first)
    assert np.abs(propagator[0].numpy() - flow[0]).max() < 1e-9 * np.abs(flow).max()
    assert np.abs(noise[0].numpy() - cov[0]).max() < 1e-8 * np.abs(cov).max()


def test_vp_formula():
    s, t = pairs()
    total = 0.1 * (t - s) + 19.9 * (t**2 - s**2) / 2
    propagator, noise = VP().transition(s, t)
    assert torch.allclose(propagator.flatten(), (-total / 2).exp(), rtol=1e-12, atol=0)
    assert torch.allclose(noise.flatten(), -torch.expm1(-total), rtol=1e-9, atol=0)
