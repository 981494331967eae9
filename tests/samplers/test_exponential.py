"""Coefficients of an exponential step: quadrature against formulas where there are any, against SciPy where not."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from common.samplers.exponential import augmented_steps, scalar_steps
from tests import oracles
from tests.dynamics.members import build, sde

SPANS = [(1.0, 0.9), (0.8, 0.5), (0.3, 0.29), (0.05, 0.01), (0.01, 0.001)]  # in shares of T


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    "name",
    ["vp", "ve", "subvp", "edm", "flow", "fvp-0.5-0", "fvp-0.9-2-path", "fvp-0.3-3-path", "fve-0.9-2-path", "cld-path"],
)
def test_quadrature_agrees_with_the_formulas_of_one_component(name, stochastic):
    dynamics = build(name)
    t, s = (dynamics.horizon * torch.tensor(shares, dtype=torch.float64) for shares in zip(*SPANS, strict=True))
    formula, quadrature = (make(dynamics, t, s, 3, stochastic) for make in (scalar_steps, augmented_steps))
    tolerance = 2e-5 if name == "flow" else 1e-7  # its rate is 1 / (1 - t), 200 at T: more than quadrature expects
    for part in ("maps", "kicks", "root"):
        torch.testing.assert_close(getattr(quadrature, part), getattr(formula, part), rtol=tolerance, atol=0, msg=part)


def reference(name: str, t: float, s: float) -> tuple[np.ndarray, ...]:
    """(U, c_0, c_1, c_2) from t to s: dZ/dt = N Z - 1/2 G G' S^-1 M l^k / k!, l the step in lambda so far."""
    process, law = sde(name), oracles.law(sde(name))
    size = len(process.start)

    def level(mean: np.ndarray, cov: np.ndarray) -> float:
        return float(np.log(oracles.information(mean[None], cov[None])[0]))

    begin = level(*law(t))

    def slope(tau: float, flat: np.ndarray) -> np.ndarray:
        mean, cov = law(tau)
        columns, vector = flat.reshape(size, size + 3), process.G(tau)
        unit = np.sqrt(np.diag(cov))
        solved = np.linalg.solve(cov / np.outer(unit, unit), np.stack([vector, mean], 1) / unit[:, None])
        along, pull = solved[:, 0] / unit, solved[:, 1] / unit  # S^-1 G and S^-1 M
        change = process.F(tau) @ columns + 0.5 * np.outer(vector, along @ columns)
        source = -0.5 * vector * (vector @ pull)
        change[:, size] += source
        step = begin - level(mean, cov)
        change[:, size + 1] += source * step
        change[:, size + 2] += source * step**2 / 2
        return change.ravel()

    start = np.concatenate([np.eye(size), np.zeros((size, 3))], 1)
    result = solve_ivp(slope, (t, s), start.ravel(), method="DOP853", rtol=1e-9, atol=1e-12)
    assert result.success, result.message
    end = result.y[:, -1].reshape(size, size + 3)
    return end[:, :size], *end[:, size:].T


@pytest.mark.parametrize("span", SPANS[:4])
@pytest.mark.parametrize("name", ["fvp-0.9-2", "fvp-0.3-3", "fve-0.9-2", "cld"])
def test_quadrature_agrees_with_scipy_on_the_augmented_state(name, span):
    t, s = (torch.tensor([x], dtype=torch.float64) for x in span)
    linear = augmented_steps(build(name), t, s, 3, stochastic=False)
    for ours, theirs in zip((linear.maps, *linear.kicks.unbind(2)), reference(name, *span), strict=True):
        assert np.abs(ours[0].numpy() - theirs).max() < 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["fvp-0.9-5", "fve-0.9-5", "fvp-0.1-3"])
def test_a_known_x0_is_carried_to_its_own_law(name, stochastic):
    # Z_t = M_t x0 stays on the mean whatever the step: M_s = U M_t + c_0
    dynamics = build(name)
    t, s = (torch.tensor(times, dtype=torch.float64) for times in zip(*SPANS, strict=True))
    linear = augmented_steps(dynamics, t, s, 1, stochastic)
    maps, constant = linear.maps, linear.kicks[:, :, 0]
    here, there = dynamics.moments(t), dynamics.moments(s)
    assert torch.allclose(torch.einsum("bij,bj->bi", maps, here.mean) + constant, there.mean, rtol=1e-9, atol=1e-12)
    # and the law is carried along: U S_t U' + Q = S_s for the process of x0 known
    moved = maps @ here.cov @ maps.mT + linear.root @ linear.root.mT
    unit = there.cov.diagonal(dim1=1, dim2=2).sqrt()
    assert ((moved - there.cov) / unit.unsqueeze(1) / unit.unsqueeze(2)).abs().max() < 1e-6
