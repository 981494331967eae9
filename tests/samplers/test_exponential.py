"""An exponential step: quadrature against formulas where there are any, against SciPy where not; what it costs."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from common.samplers import GRIDS, SOLVERS, sample
from common.samplers.exponential import augmented_steps, derivatives, joint_root, scalar_steps
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


@pytest.mark.parametrize("span", SPANS[:4])
@pytest.mark.parametrize("name", ["fvp-0.9-2", "fvp-0.3-3", "fve-0.9-2", "cld"])
def test_a_step_of_the_sde_is_the_exact_posterior(name, span):
    """U S_t = S_s Phi' and Q = S_s - U Phi S_s, Phi from s to t by SciPy, in units of the deviations."""
    (t, s), process = span, sde(name)
    early, late = oracles.moments(process, np.array([s, t]))[1]
    forward = oracles.solve(process, np.array([t]), first=s)[0][0]
    before, after = np.sqrt(np.diag(early)), np.sqrt(np.diag(late))
    early, late = early / np.outer(before, before), late / np.outer(after, after)
    forward = forward * before / after[:, None]
    linear = augmented_steps(build(name), *torch.tensor([[t], [s]], dtype=torch.float64), 2, stochastic=True)
    maps, root = linear.maps[0].numpy() * after / before[:, None], linear.root[0].numpy() / before[:, None]
    assert np.abs(maps @ late - early @ forward.T).max() < 1e-8
    assert np.abs(root @ root.T - (early - maps @ forward @ early)).max() < 1e-8


def test_the_noise_of_a_step_has_a_root_of_any_rank():
    vector = torch.tensor([1.0, 1e-6, 3.0], dtype=torch.float64)
    rank_one = torch.outer(vector, vector).unsqueeze(0)
    root = joint_root(rank_one)
    assert torch.allclose(root @ root.mT, rank_one, rtol=1e-12, atol=0)
    assert torch.equal(joint_root(torch.zeros_like(rank_one)), torch.zeros_like(rank_one))


# -- the polynomial ----------------------------------------------------------------------------------------------------

STEP = torch.tensor([0.2], dtype=torch.float64)


def levels(*places: float) -> list[torch.Tensor]:
    """Log noise levels at which lambda has these values."""
    return [torch.tensor([-place], dtype=torch.float64) for place in places]


@pytest.mark.parametrize("places", [(0.0, -0.3, -0.5), (1.2, 1.0, 0.85, 0.7), (0.0, 0.2)])
def test_derivatives_are_those_of_polynomials(places):
    weights, x = derivatives(levels(*places), STEP)[:, :, 0], np.array(places)
    for power in range(len(places)):
        polynomial = np.polynomial.Polynomial([0] * power + [1])
        for k, row in enumerate(weights.numpy()):
            assert row @ polynomial(x) == pytest.approx(polynomial.deriv(k)(x[0]) if k else polynomial(x[0]), abs=1e-9)


@pytest.mark.parametrize(
    ("places", "order"),
    [
        ((0.0, -0.2, -0.4), 3),
        ((0.0, -0.2, -0.2), 2),  # a standstill
        ((0.0, 0.0, -0.2), 1),
        ((0.0, -0.2, -0.25), 2),  # the step ahead is four times as long as the last but one
        ((0.0, -0.1, -0.4), 1),
    ],
)
def test_steps_of_no_length_or_far_shorter_than_the_one_ahead_carry_no_slope(places, order):
    weights = derivatives(levels(*places), STEP)[:, :, 0]
    assert weights.isfinite().all()
    assert (weights != 0).any(1).tolist() == [k < order for k in range(3)]


def test_modes_are_told_apart():
    still, moving = derivatives([torch.zeros(1, 2), torch.tensor([[0.0, 0.2]])], torch.tensor([[0.2, 0.2]]))[1, :, 0].T
    assert still.tolist() == [0, 0]
    assert moving.tolist() == pytest.approx([5, -5])


# -- runs --------------------------------------------------------------------------------------------------------------


def test_order_3_counts_the_evaluation_of_its_start():
    dynamics, solver = build("fvp-0.9-2"), SOLVERS["exp3"]()
    for steps in (1, 2, 7):
        result = sample(dynamics, oracles.GaussianDenoiser(dynamics), (1, 1, 2), solver="exp3", steps=steps, seeds=[0])
        assert result.nfe == solver.calls(steps) == steps + 1
        assert solver.steps_for(steps + 1) == steps


@pytest.mark.parametrize("solver", ["exp-sde", "exp-sde2"])
@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2"])
def test_noise_depends_on_its_own_seed(name, solver):
    dynamics = build(name)

    def run(*seeds: int) -> torch.Tensor:
        shape, denoiser = (len(seeds), 1, 3), oracles.GaussianDenoiser(dynamics)
        return sample(dynamics, denoiser, shape, solver=solver, steps=20, seeds=seeds).x

    together = run(4, 9, 2)
    assert torch.allclose(together[1:2], run(9), atol=1e-6)
    assert (together[0] - together[1]).abs().min() > 1e-4


@pytest.mark.parametrize("solver", ["exp2", "exp3", "exp-sde2"])
def test_graded_grids_do_not_run_wild(solver):
    """Ten steps that are short where noise is as large as the data: their last ones are long."""
    dynamics, mixture = build("fvp-0.9-2"), oracles.Mixture()
    result = sample(
        dynamics,
        oracles.MixtureDenoiser(dynamics),
        (25, 1, 20, 20),
        solver=solver,
        steps=10,
        seeds=range(25),
        grid=GRIDS["data"],
    )
    assert mixture.distance(result.x.double().flatten().numpy()) < 0.04  # 0.18 to 1.6 with all slopes
