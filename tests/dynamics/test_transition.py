"""Exact maps between two times: they compose, invert, carry the covariance, and agree with expm, SciPy and formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from common.dynamics import CLD, VP
from tests import oracles
from tests.dynamics.members import EVERY, build, sde

NAMES = [*EVERY, "fvp-0.9-2-path", "fve-0.9-3-path", "cld-path"]
SPANS = [(1e-5, 1e-3), (1e-3, 0.2), (0.05, 0.4), (0.3, 0.9), (0.9, 1.0), (1e-4, 1.0)]


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    ends = torch.tensor(SPANS, dtype=torch.float64)
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
    s, t = pairs()
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
    s, t = pairs()
    (forward, noise), (backward, removed) = dynamics.transition(s, t), dynamics.transition(t, s)
    assert close(apply(backward, forward), torch.eye(dynamics.num_components, dtype=torch.float64).reshape(
        1, *forward.shape[1:3], *(1,) * len(dynamics.basis.modes)).expand_as(forward), 1e-7)
    undone = apply(backward, noise, backward.transpose(1, 2))
    assert close(removed, -undone, 1e-6)
    eigenvalues = torch.linalg.eigvalsh(removed.movedim((1, 2), (-2, -1)))
    assert (eigenvalues <= 1e-9 * eigenvalues.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_happens_in_no_time(name):
    dynamics = build(name)
    t = torch.tensor([1e-4, 0.3, 1.0], dtype=torch.float64)
    propagator, noise = dynamics.transition(t, t)
    identity = torch.zeros_like(propagator)
    identity.diagonal(dim1=1, dim2=2).fill_(1)
    assert torch.equal(propagator, identity)
    assert torch.count_nonzero(noise) == 0


@pytest.mark.parametrize("name", NAMES)
def test_maps_carry_mean_and_covariance(name):
    dynamics = build(name)
    s, t = pairs()
    propagator, noise = dynamics.transition(s, t)
    start, end = dynamics.moments(s), dynamics.moments(t)
    mean = apply(propagator, start.mean.unsqueeze(2))
    assert close(mean, end.mean.unsqueeze(2), 1e-9)
    cov = apply(propagator, start.cov, propagator.transpose(1, 2)) + noise
    assert close(cov, end.cov, 1e-8 if not name.endswith("path") else 1e-7)


@pytest.mark.parametrize("constants", [(4.0, 0.25, 0.04), (1.0, 2.0, 1.0)])
@pytest.mark.parametrize("span", [*SPANS, (0.7, 0.2)])
def test_cld_is_the_matrix_exponential(constants, span):
    # Van Loan: expm([[-F, GG'], [0, F']] h) holds both the map and the noise
    reference, h = oracles.cld(*constants), span[1] - span[0]
    matrix, vector = reference.F(0.0), reference.G(0.0)
    block = np.zeros((4, 4))
    block[:2, :2], block[:2, 2:], block[2:, 2:] = -matrix, np.outer(vector, vector), matrix.T
    exponential = expm(block * h)
    flow = exponential[2:, 2:].T
    propagator, noise = CLD(*constants).transition(*(torch.tensor([x], dtype=torch.float64) for x in span))
    assert np.allclose(propagator[0], flow, rtol=1e-9, atol=1e-10 * np.abs(flow).max())
    kick = flow @ exponential[:2, 2:]
    assert np.allclose(noise[0], kick, rtol=1e-7, atol=1e-10 * np.abs(kick).max())


@pytest.mark.parametrize("name", ["fvp-0.7-3", "fvp-0.9-5", "fve-0.3-3", "subvp"])
@pytest.mark.parametrize("span", SPANS)
def test_maps_are_those_of_scipy(name, span):
    propagator, noise = build(name).transition(*(torch.tensor([x], dtype=torch.float64) for x in span))
    flow, cov = oracles.solve(sde(name), np.array([span[1]]), first=span[0])
    assert np.abs(propagator[0].numpy() - flow[0]).max() < 1e-9 * np.abs(flow).max()
    assert np.abs(noise[0].numpy() - cov[0]).max() < 1e-8 * np.abs(cov).max()


def test_vp_formula():
    s, t = pairs()
    total = 0.1 * (t - s) + 19.9 * (t**2 - s**2) / 2
    propagator, noise = VP().transition(s, t)
    assert torch.allclose(propagator.flatten(), (-total / 2).exp(), rtol=1e-12, atol=0)
    assert torch.allclose(noise.flatten(), -torch.expm1(-total), rtol=1e-9, atol=0)
