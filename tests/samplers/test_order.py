"""Orders of convergence on Gaussian data, whose reverse processes are linear, and the limits themselves."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from common.samplers import GRIDS, SOLVERS, Posterior, sample
from tests import oracles
from tests.dynamics.members import HEATS, build, data_shape, sde

MEAN, STD = 0.3, 0.2


def deviation(law) -> Tensor:
    """Deviation of v for data N(MEAN, STD^2)."""
    return (law.scale.square() * STD**2 + law.std.square()).sqrt()


def flow(dynamics, v: Tensor, end: float) -> Tensor:
    """Exact probability flow of one component from T: an affine map carries Gaussians onto each other."""
    first, last = (dynamics.moments(torch.tensor([t], dtype=torch.float64)) for t in (dynamics.horizon, end))
    return last.scale * MEAN + deviation(last) / deviation(first) * (v - first.scale * MEAN)


def starts(dynamics, count: int = 8) -> Tensor:
    """Start states spread over the law of Z_T, float64, (count, A, 1, 1)."""
    noise = torch.randn(count, dynamics.num_components, 1, 1, dtype=torch.float64)
    return dynamics.prior.sample((count, 1, 1), noise)


def errors(
    dynamics, denoiser, init: Tensor, solver: str, counts: list[int], end: float, reference: Tensor
) -> list[float]:
    shape = (len(init), *init.shape[2:])
    runs = [sample(dynamics, denoiser, shape, solver=solver, steps=n, init=init, t_end=end) for n in counts]
    return [(run.x - reference).square().mean().sqrt().item() for run in runs]


@pytest.mark.parametrize(
    ("solver", "name", "counts", "end"),
    [
        ("euler", "vp", [200, 400, 800], 0.02),
        ("euler", "fvp-0.9-2-path", [200, 400, 800], 0.02),
        ("euler", "flow", [200, 400, 800], 0.02),
        ("euler", "edm", [200, 400, 800], 0.02),
        ("exp1", "vp", [40, 80, 160, 320], 1e-3),
        ("exp1", "edm", [40, 80, 160, 320], 1e-4),
        ("exp1", "flow", [40, 80, 160, 320], 1e-3),
        ("exp1", "ve", [40, 80, 160, 320], 1e-3),
        ("exp1", "fvp-0.9-2-path", [40, 80, 160, 320], 1e-3),
        ("exp1", "cld-path", [40, 80, 160, 320], 1e-3),
        ("exp2", "vp", [40, 80, 160, 320], 1e-3),
        ("exp2", "subvp", [40, 80, 160, 320], 1e-3),
        ("exp2", "ve", [40, 80, 160, 320], 1e-3),
        ("exp2", "edm", [40, 80, 160, 320], 1e-4),
        ("exp2", "flow", [40, 80, 160, 320], 1e-3),
        ("exp2", "fvp-0.9-2-path", [40, 80, 160, 320], 1e-3),
        ("exp2", "fvp-0.1-2-path", [40, 80, 160, 320], 1e-3),
        ("exp2", "fve-0.9-2-path", [40, 80, 160, 320], 1e-3),
        ("exp2", "cld-path", [40, 80, 160, 320], 1e-3),
    ],
)
def test_one_component_solvers_have_their_order(solver, name, counts, end):
    dynamics = build(name)
    init = starts(dynamics)
    found = errors(
        dynamics, oracles.GaussianDenoiser(dynamics), init, solver, counts, end, flow(dynamics, init[:, 0], end)
    )
    assert oracles.slope(counts, found) == pytest.approx(SOLVERS[solver].order, abs=0.2)
    assert found[-1] < {1: 2e-2, 2: 2e-4}[SOLVERS[solver].order]


def gaussian_flow(name: str, init: Tensor, end: float) -> Tensor:
    """X at ``end`` on the probability-flow ODE of the augmented state, by SciPy with the oracle's own F, G, M and S."""
    reference, law, shape = sde(name), oracles.law(sde(name)), init.shape[1::-1]

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        mean, cov = law(t)
        z, vector = flat.reshape(shape), reference.G(t)
        score = -np.linalg.solve(cov + STD**2 * np.outer(mean, mean), z - MEAN * mean[:, None])
        return (reference.F(t) @ z - 0.5 * np.outer(vector, vector @ score)).ravel()

    begin = init[:, :, 0, 0].mT.contiguous().numpy().ravel()
    result = solve_ivp(slope, (1.0, end), begin, method="DOP853", rtol=1e-9, atol=1e-11)
    assert result.success, result.message
    return torch.from_numpy(result.y[:, -1].reshape(shape)[0]).reshape(-1, 1, 1)


@pytest.mark.parametrize("name", ["fvp-0.9-2", "fvp-0.3-3", "cld"])
def test_euler_on_the_augmented_state_has_order_1(name):
    dynamics, counts, end = build(name), [400, 800, 1600], 0.1
    init = starts(dynamics)
    found = errors(
        dynamics, oracles.GaussianDenoiser(dynamics), init, "euler", counts, end, gaussian_flow(name, init, end)
    )
    assert oracles.slope(counts, found) == pytest.approx(1, abs=0.15)
    assert found[-1] < 5e-2


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        ("exp1", "fvp-0.9-2"),
        ("exp1", "fvp-0.3-3"),
        ("exp1", "cld"),
        # not fvp-0.3-3: its noise level stands still in places where the augmented state moves on
        ("exp2", "fvp-0.9-2"),
        ("exp2", "fve-0.9-2"),
        ("exp2", "cld"),
    ],
)
def test_exponential_solvers_on_the_augmented_state_have_their_order(solver, name):
    dynamics, counts, end = build(name), [40, 80, 160], 1e-2
    init = starts(dynamics)
    found = errors(
        dynamics, oracles.GaussianDenoiser(dynamics), init, solver, counts, end, gaussian_flow(name, init, end)
    )
    assert oracles.slope(counts, found) == pytest.approx(SOLVERS[solver].order, abs=0.25)
    assert found[-1] < {1: 3e-2, 2: 1e-3}[SOLVERS[solver].order]


@pytest.mark.parametrize("name", ["fvp-0.9-2", "fve-0.3-3", "cld"])
def test_a_point_mass_takes_one_augmented_step_as_well_as_seven(name):
    dynamics, x0 = build(name), torch.tensor([[[0.4]]], dtype=torch.float64)
    init = starts(dynamics, 1)

    def run(steps: int) -> Tensor:
        return sample(dynamics, lambda v, t, labels: x0, (1, 1, 1), solver="exp2", steps=steps, init=init).z

    torch.testing.assert_close(run(1), run(7), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", "cld"])
def test_euler_maruyama_has_strong_order_1(name):
    # additive noise: against the same Brownian path at a fine step
    dynamics, end, fine, counts = build(name), 0.1, 2048, [64, 128, 256]
    solver, posterior = SOLVERS["em"](), Posterior(dynamics, oracles.GaussianDenoiser(dynamics), None)
    init = starts(dynamics, 64)
    kicks = torch.randn(fine, 64, 1, 1, dtype=torch.float64)

    def run(steps: int) -> Tensor:
        times, z = GRIDS["uniform"](dynamics, end, steps), init
        merged = kicks.unflatten(0, (steps, -1)).sum(1) / math.sqrt(fine / steps)
        for i in range(steps):
            z = solver.step(dynamics, posterior, z, times[i : i + 1], times[i + 1 : i + 2], merged[i])
        return z[:, 0]

    reference = run(fine)
    found = [(run(steps) - reference).square().mean().sqrt().item() for steps in counts]
    assert oracles.slope(counts, found) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", ["vp", "flow", "fvp-0.9-2", "fve-0.3-3", "cld"])
def test_euler_maruyama_ends_in_the_law_of_the_data(name):
    # mean and variance of X at t_end for data N(0.3, 0.2^2), within five standard errors and the bias of 500 steps
    dynamics, end, count = build(name), 1e-2, 10_000
    result = sample(
        dynamics,
        oracles.GaussianDenoiser(dynamics),
        (25, 1, 20, 20),
        solver="em",
        steps=500,
        seeds=range(25),
        t_end=end,
    )
    mean, cov = (field[0] for field in oracles.moments(sde(name), np.array([end])))
    variance = cov[0, 0] + STD**2 * mean[0] ** 2
    x = result.x.double()
    assert abs(x.mean().item() - MEAN * mean[0]) < 5 * math.sqrt(variance / count) + 5e-3
    assert abs(x.var().item() / variance - 1) < 5 * math.sqrt(2 / count) + 5e-2


class WhiteDenoiser:
    """Posterior mean of white data N(0, STD^2) in the basis of a dynamics, mode by mode."""

    def __init__(self, dynamics) -> None:
        self.dynamics = dynamics

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        law = self.dynamics.moments(t)
        return self.dynamics.basis.scale(STD**2 * law.scale / deviation(law).square(), v)


@pytest.mark.parametrize("name", HEATS)
@pytest.mark.parametrize(("solver", "counts"), [("exp1", [40, 80, 160]), ("exp2", [80, 160, 320])])
def test_exponential_solvers_have_their_order_mode_by_mode(name, solver, counts):
    dynamics, end = build(name), 1e-2
    init = dynamics.prior.sample(
        (4, 1, *data_shape(name)), torch.randn(4, 1, 1, *data_shape(name), dtype=torch.float64)
    )
    first, last = (dynamics.moments(torch.tensor([t], dtype=torch.float64)) for t in (1.0, end))
    exact = dynamics.basis.scale(deviation(last) / deviation(first), init[:, 0])
    found = errors(dynamics, WhiteDenoiser(dynamics), init, solver, counts, end, exact)
    assert oracles.slope(counts, found) == pytest.approx(SOLVERS[solver].order, abs=0.25)
    assert found[-1] < {1: 2e-2, 2: 1e-3}[SOLVERS[solver].order]


@pytest.mark.parametrize("solver", ["exp1", "exp2"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "name",
    ["vp", "ve", "subvp", "edm", "flow", "fvp-0.9-2-path", "fve-0.3-3-path", "cld-path", "heat-5x7", "heat-4x6"],
)
def test_a_point_mass_needs_one_step(name, steps, solver):
    # x0 known: v_T = m_T x0 + sc_T eps ends at m x0 + sc eps with the same eps
    dynamics, shape, end = build(name), (3, 2, *data_shape(name)), 1e-3
    x0, noise = torch.randn(2, *shape, dtype=torch.float64)
    t, s = (torch.tensor([time], dtype=torch.float64) for time in (dynamics.horizon, end))
    init = dynamics.perturb(x0, t, noise).unsqueeze(1)
    got = sample(dynamics, lambda v, t, labels: x0, shape, solver=solver, steps=steps, init=init, t_end=end)
    assert torch.allclose(got.x, dynamics.perturb(x0, s, noise), rtol=1e-9, atol=1e-10)
    assert got.nfe == steps
