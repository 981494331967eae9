"""Orders of convergence in float64, and the limits themselves, against references that know no solver.

Data are a mixture of three normal laws of deviation 0.3. On one component the exact flow carries quantiles to
quantiles, mode by mode; on several, SciPy solves the probability-flow ODE of the oracle's own SDE. Weak orders of the
exponential SDE solvers come without sampling: on Gaussian data a run is linear in its noises.

Grids: one component is smooth in log sigma, also where sigma stands still in time as that of FVP(0.3, 3) does (grids
log_sigma and data). Where every mode has its own level it is log t. A state of several components moves on in time
while its noise level hardly rises (FVE, FVP(0.9, 3)): t^(1/3). Where the level stands still, exponential solvers have
no such order on several components, because x0_hat grows like lambda^(2/3) there.
"""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from common.broadcast import align
from common.dynamics import LinearDynamics, Prior
from common.samplers import GRIDS, SOLVERS, Posterior, sample
from tests import oracles
from tests.dynamics.members import HEATS, build, data_shape, sde
from tests.marks import later
from tests.samplers.fields import Field, returned_law, smooth_field

COUNTS, END = [160, 640], 1e-2
DATA = oracles.Mixture(means=(-0.8, 0.0, 0.8), deviations=(0.3, 0.3, 0.3), weights=(0.3, 0.4, 0.3))
PIXEL = [
    *("vp", "ve", "subvp", "edm", "flow", "cld-path"),
    *(f"{family}-{hurst}-{num_aug}-path" for family in ("fvp", "fve") for hurst in (0.3, 0.9) for num_aug in (2, 3)),
]
MEMBERS = [*PIXEL, "heat-8"]
EXPONENTIAL = ("exp1", "exp2", "exp3")
ALONG_THE_ANGLE = ("ab2", "ab3", "heun")
ALWAYS = {  # every solver and every kind of member, that of heat per mode; all pairs under the marker slow
    ("euler", "vp"), ("exp1", "ve"), ("exp2", "fve-0.9-2-path"), ("exp3", "heat-8"), ("ab2", "fvp-0.9-2-path"),
    ("ab3", "fve-0.3-3-path"), ("heun", "cld-path"),
}  # fmt: skip


def end_of(dynamics: LinearDynamics) -> float:
    """A time at which there is less noise than data."""
    return END if dynamics.horizon <= 1 and dynamics.default_t_end >= 1e-3 else dynamics.default_t_end


# -- one component: the exact flow by quantiles ------------------------------------------------------------------------


def parts(dynamics: LinearDynamics, x: Tensor) -> Tensor:
    """Real numbers of x that the dynamics moves one by one, (B, C, *modes, 2) or (B, C, *S, 1)."""
    coefficients = dynamics.basis.analysis(x)
    return torch.view_as_real(coefficients) if coefficients.is_complex() else coefficients.unsqueeze(-1)


def whole(dynamics: LinearDynamics, numbers: Tensor) -> Tensor:
    """Inverse of :func:`parts`."""
    split = bool(dynamics.basis.modes)
    return dynamics.basis.synthesis(torch.view_as_complex(numbers.contiguous()) if split else numbers.squeeze(-1))


def laws(dynamics: LinearDynamics, t: Tensor, like: Tensor) -> tuple[Tensor, list[tuple[float, Tensor, Tensor]]]:
    """m of every part, and weight, mean and variance of every normal law in the mixture of v."""
    law = dynamics.moments(t)
    scale, std = (align(x.unsqueeze(-1), like) for x in (law.scale, law.std))
    if dynamics.basis.modes:  # white noise has half of its variance in either part, but for frequencies without one
        halves = torch.full_like(std, 0.5)
        halves[..., [0, -1], :] = 1.0
        std = std * halves.sqrt()
    modes = zip(DATA.weights, DATA.means, DATA.deviations, strict=True)
    return scale, [(w, scale * mean, scale**2 * sd**2 + std**2) for w, mean, sd in modes]


class PartwiseDenoiser:
    """Posterior mean where every part of the data has the law of the mixture, which is symmetric as parts of 0 want."""

    def __init__(self, dynamics: LinearDynamics) -> None:
        self.dynamics = dynamics

    def __call__(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        numbers = parts(self.dynamics, v)
        scale, found = laws(self.dynamics, t[:1], numbers)
        logits, centres = [], []
        for (weight, mean, variance), centre, sd in zip(found, DATA.means, DATA.deviations, strict=True):
            logits.append(math.log(weight) - (variance.log() + (numbers - mean) ** 2 / variance) / 2)
            centres.append(centre + scale * sd**2 / variance * (numbers - mean))
        return whole(self.dynamics, (torch.stack(logits).softmax(0) * torch.stack(centres)).sum(0))


def exact_flow(dynamics: LinearDynamics, v: Tensor, end: float) -> Tensor:
    """Where the probability flow of one component takes v (B, C, *S) from T to ``end``, by bisection."""
    numbers = parts(dynamics, v)
    first, last = (laws(dynamics, torch.tensor([t], dtype=torch.float64), numbers)[1] for t in (dynamics.horizon, end))

    def levels(x: Tensor, law: list[tuple[float, Tensor, Tensor]]) -> Tensor:
        return torch.stack([w * torch.special.ndtr((x - mean) / variance.sqrt()) for w, mean, variance in law]).sum(0)

    wanted, low, high = levels(numbers, first), torch.full_like(numbers, -10), torch.full_like(numbers, 10)
    for _ in range(60):
        middle = (low + high) / 2
        below = levels(middle, last) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return whole(dynamics, (low + high) / 2)


def start_of(dynamics: LinearDynamics, name: str) -> Tensor:
    """States spread over the law of v_T."""
    law = dynamics.moments(torch.tensor([dynamics.horizon], dtype=torch.float64))
    shape = data_shape(name) if name in HEATS else (1, 1)
    spread = torch.linspace(-1.8, 1.8, 7, dtype=torch.float64).reshape(-1, 1, *(1,) * len(shape))
    shifted = torch.stack([torch.randn(1, *shape, dtype=torch.float64) / 4 + x for x in spread])
    return dynamics.basis.scale((law.scale.square() * DATA.variance + law.std.square()).sqrt(), shifted).unsqueeze(1)


def distances(dynamics: LinearDynamics, solver: str, init: Tensor, end: float, want: Tensor) -> list[float]:
    """Root mean square distance of runs from ``init`` to the reference, by numbers of steps."""
    shape, denoiser = (len(init), *init.shape[2:]), PartwiseDenoiser(dynamics)
    own = GRIDS["log_time"] if dynamics.basis.modes or solver == "euler" else None
    grid = GRIDS["rho3"] if dynamics.num_components > 1 else own
    runs = [sample(dynamics, denoiser, shape, solver=solver, steps=n, init=init, t_end=end, grid=grid) for n in COUNTS]
    return [(run.x - want).square().mean().sqrt().item() for run in runs]


def errors(solver: str, name: str) -> list[float]:
    """Distances to the exact flow of one component."""
    dynamics = build(name)
    init, end = start_of(dynamics, name), end_of(dynamics)
    return distances(dynamics, solver, init, end, exact_flow(dynamics, init[:, 0], end))


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        pytest.param(solver, name, marks=[] if (solver, name) in ALWAYS else [pytest.mark.slow])
        for solver in ("euler", *EXPONENTIAL, *ALONG_THE_ANGLE)
        for name in MEMBERS
    ],
)
def test_order_on_one_component(solver, name):
    order, found = SOLVERS[solver].order, errors(solver, name)
    assert oracles.slope(COUNTS, found) == pytest.approx(order, abs=0.2)
    bound = 0.1 if solver == "euler" else {1: 5e-3, 2: 3e-5, 3: 3e-7}[order]
    assert found[-1] < bound  # so the limit is the exact flow


@pytest.mark.parametrize("name", ["flow"])
def test_three_slopes_of_equal_steps_are_of_order_2_with_a_smaller_constant(name):
    assert errors("ab3", name)[-1] < 0.4 * errors("ab2", name)[-1]


@pytest.mark.parametrize("solver", EXPONENTIAL)
@pytest.mark.parametrize("steps", [1, 4])
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
    assert got.nfe == SOLVERS[solver]().calls(steps)


# -- several components: the flow by SciPy -----------------------------------------------------------------------------


def spread_over(dynamics: LinearDynamics, count: int) -> Tensor:
    """Start states from the law of Z_T, float64, (count, A, 1, 1)."""
    noise = torch.randn(count, dynamics.num_components, 1, 1, dtype=torch.float64)
    return dynamics.prior.sample((count, 1, 1), noise)


@functools.cache
def run_by_scipy(name: str, count: int = 4) -> tuple[Tensor, Tensor]:
    """Start states and X at ``END`` on the probability-flow ODE of the augmented state, with the oracle's own SDE."""
    init = spread_over(build(name), count)
    reference, law, shape = sde(name), oracles.law(sde(name)), init.shape[1::-1]

    def drift(t: float, flat: np.ndarray) -> np.ndarray:
        mean, cov = law(t)
        z, vector = flat.reshape(shape), reference.G(t)
        inverses = [np.linalg.inv(cov + sd**2 * np.outer(mean, mean)) for sd in DATA.deviations]
        away = [z - centre * mean[:, None] for centre in DATA.means]
        logits = np.stack(
            [
                math.log(w) - (y * (inverse @ y)).sum(0) / 2  # all of one determinant, as all deviations are the same
                for w, y, inverse in zip(DATA.weights, away, inverses, strict=True)
            ]
        )
        shares = np.exp(logits - logits.max(0))
        shares /= shares.sum(0)
        score = -sum(p * (inverse @ y) for p, y, inverse in zip(shares, away, inverses, strict=True))
        return (reference.F(t) @ z - 0.5 * np.outer(vector, vector @ score)).ravel()

    begin = init[:, :, 0, 0].mT.contiguous().numpy().ravel()
    result = solve_ivp(drift, (1.0, END), begin, method="DOP853", rtol=1e-10, atol=1e-12)
    assert result.success, result.message
    return init, torch.from_numpy(result.y[:, -1].reshape(shape)[0]).reshape(-1, 1, 1)


RISING = ("fvp-0.9-2", "fvp-0.9-3", "fve-0.9-2", "fve-0.9-3", "cld")  # sigma does not stand still
ALWAYS_AUGMENTED = {("exp2", "fve-0.9-2"), ("exp3", "cld")}


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        pytest.param(solver, name, marks=[] if (solver, name) in ALWAYS_AUGMENTED else [pytest.mark.slow])
        for name in RISING
        for solver in (*(("euler",) if not name.startswith("fve") else ()), *EXPONENTIAL)
    ],
)
def test_order_on_several_components(solver, name):
    order, (init, want) = SOLVERS[solver].order, run_by_scipy(name)
    found = distances(build(name), solver, init, END, want)
    assert oracles.slope(COUNTS, found) == pytest.approx(order, abs=0.2)
    assert found[-1] < {1: 1e-1, 2: 1e-3, 3: 3e-5}[order]


@pytest.mark.parametrize("solver", ["exp3", *map(later, ("exp1", "exp2"))])
@pytest.mark.parametrize("grid", ["log_sigma", later("uniform")])
def test_a_standstill_is_no_division_by_zero(grid, solver):
    # 640 steps, some of 1e-9 in log sigma
    dynamics, (init, want) = build("fvp-0.3-3"), run_by_scipy("fvp-0.3-3")
    run = sample(
        dynamics, PartwiseDenoiser(dynamics), (len(init), 1, 1), solver=solver, steps=640, init=init, t_end=END,
        grid=GRIDS[grid],
    )  # fmt: skip
    assert (run.x - want).square().mean().sqrt().item() < 0.03


@pytest.mark.parametrize("name", ["fvp-0.9-2", "fve-0.3-3", "cld"])
def test_a_point_mass_takes_one_augmented_step_as_well_as_seven(name):
    dynamics, x0 = build(name), torch.tensor([[[0.4]]], dtype=torch.float64)
    init = spread_over(dynamics, 1)

    def run(steps: int) -> Tensor:
        return sample(dynamics, lambda v, t, labels: x0, (1, 1, 1), solver="exp3", steps=steps, init=init).z

    torch.testing.assert_close(run(1), run(7), rtol=1e-7, atol=1e-9)


# -- the reverse SDE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["vp", *map(later, ("edm", "flow", "fvp-0.9-2", "fvp-0.3-3", "fve-0.9-2", "cld", "heat-8"))]
)
def test_euler_maruyama_has_strong_order_1(name):
    # additive noise: against the same Brownian path at a fine step
    dynamics, end, fine, shape = build(name), 0.1, 1920, data_shape(name) if name in HEATS else (1,)
    solver, posterior = SOLVERS["em"](), Posterior(dynamics, PartwiseDenoiser(dynamics), None)
    init = dynamics.prior.sample(
        (16, 1, *shape), torch.randn(16, dynamics.num_components, 1, *shape, dtype=torch.float64)
    )
    kicks = torch.randn(fine, 16, 1, *shape, dtype=torch.float64)

    def run(steps: int) -> Tensor:
        times, z = GRIDS["uniform"](dynamics, end, steps), init
        merged = kicks.unflatten(0, (steps, -1)).sum(1) / math.sqrt(fine / steps)
        for i in range(steps):
            z = solver.step(dynamics, posterior, z, times[i : i + 1], times[i + 1 : i + 2], merged[i])
        return z[:, 0]

    reference = run(fine)
    found = [(run(steps) - reference).square().mean().sqrt().item() for steps in COUNTS]
    longer = [1 / (1 / steps - 1 / fine) for steps in COUNTS]  # the reference has an error too, in the same direction
    assert oracles.slope(longer, found) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("solver", ["exp-sde", "exp-sde2"])
@pytest.mark.parametrize(
    "name", ["vp", "fvp-0.9-2", "heat-8", *map(later, ("edm", "flow", "fvp-0.3-3", "fve-0.9-2", "cld"))]
)
def test_exponential_sde_solvers_have_their_weak_order(name, solver):
    dynamics = copy.deepcopy(build(name))
    field = smooth_field((8,) if dynamics.basis.modes else (2,))
    if not dynamics.basis.modes:
        field = Field(field.mean, torch.ones_like(field.spectrum))
    dynamics.prior = Prior(dynamics, field.mean.unsqueeze(0), field.spectrum if dynamics.basis.modes else 1.0)
    end, counts, found = end_of(dynamics), [80, 320], []
    for steps in counts:
        got = returned_law(dynamics, field, SOLVERS[solver](), steps, t_end=end, noisy_end=True)
        want = field.at(dynamics, end)
        assert torch.allclose(got.mean, want.mean, rtol=0, atol=1e-9)
        found.append((got.variance / want.variance - 1).abs().max().item())
    order = SOLVERS[solver].order
    assert oracles.slope(counts, found) == pytest.approx(order, abs=0.2)
    assert found[-1] < {1: 4e-2, 2: 1e-3}[order]  # so the limit is the law of the data


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", *map(later, ("flow", "fve-0.3-3", "cld"))])
def test_euler_maruyama_ends_in_the_law_of_the_data(name):
    # mean and variance of X at t_end for data N(0.3, 0.2^2), within five standard errors and the bias of 500 steps
    dynamics, count, mean, deviation = build(name), 10_000, 0.3, 0.2
    denoiser = oracles.GaussianDenoiser(dynamics, mean, deviation)
    x = sample(dynamics, denoiser, (25, 1, 20, 20), solver="em", steps=500, seeds=range(25), t_end=END).x.double()
    factor, cov = (found[0] for found in oracles.moments(sde(name), np.array([END])))
    variance = cov[0, 0] + deviation**2 * factor[0] ** 2
    assert abs(x.mean().item() - mean * factor[0]) < 5 * math.sqrt(variance / count) + 5e-3
    assert abs(x.var().item() / variance - 1) < 5 * math.sqrt(2 / count) + 5e-2
