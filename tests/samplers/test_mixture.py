"""With an exact denoiser there is no network error: every solver must return the law of a three-mode mixture.

Distances are Wasserstein-1 to exact quantiles, less their floor (the distance of as many exact samples). Where the
published zero-mean prior is far from the law of Z_T the prior with the data's moments is used, and compared with it.
The whole table over many seeds and both priors: benchmarks/quality_mixture.py.
"""

import functools

import pytest
import torch
from torch import Tensor

from common.dynamics import LinearDynamics, Prior
from common.samplers import default_solver, sample
from gfdm.dynamics import FVE, FVP
from tests.dynamics.members import build
from tests.marks import later
from tests.oracles import Mixture, MixtureDenoiser

MIXTURE = Mixture()
GROUPS, SEEDS, SIDE = 2, 25, 20  # two groups of 10,000 samples: the pixels of an image are independent


@functools.cache
def floor(mixture: Mixture) -> float:
    return mixture.floor(SEEDS * SIDE**2)


def excess(dynamics: LinearDynamics, solver: str, steps: int, mixture: Mixture = MIXTURE) -> float:
    """Distance less its floor, mean over the groups."""
    shape, denoiser = (GROUPS * SEEDS, 1, SIDE, SIDE), MixtureDenoiser(dynamics, mixture)
    result = sample(dynamics, denoiser, shape, solver=solver, steps=steps, seeds=range(shape[0]))
    groups = result.x.double().reshape(GROUPS, -1).numpy()
    return sum(mixture.distance(group) for group in groups) / GROUPS - floor(mixture)


FRACTIONAL = [
    f"{family}-{hurst}-{num_aug}"
    for family in ("fvp", "fve")
    for num_aug in (0, 2, 3)
    for hurst in ((0.1, 0.5, 0.9) if num_aug else (0.5,))  # without auxiliary processes H has no effect
]


def crossed(names: list[str], solvers: list[tuple[str, int]]) -> list[object]:
    """Every name with every solver, by turns; all but one of each name for the marker slow."""
    pairs = [(i, name, j, solver) for i, name in enumerate(names) for j, solver in enumerate(solvers)]
    return [(name, *solver) if i % len(solvers) == j else later(name, *solver) for i, name, j, solver in pairs]


SOME = ("fvp-0.9-2", "fve-0.5-0")  # both families, with auxiliary processes and without


@pytest.mark.parametrize("name", [name if name in SOME else later(name) for name in (*FRACTIONAL, "cld")])
def test_1000_euler_maruyama_steps_return_the_data_law(name):
    assert excess(build(name), "em", 1000) < 0.01


@pytest.mark.parametrize(
    ("name", "solver", "steps"),
    crossed(
        ["vp", "fvp-0.9-2-path", "fvp-0.1-2-path", "fve-0.9-3-path", "cld-path"],
        [("exp2", 100), ("exp1", 400), ("euler", 400)],
    ),
)
def test_ode_solvers_return_the_data_law(name, solver, steps):
    assert excess(build(name), solver, steps) < 0.01


@pytest.mark.parametrize("name", ["fvp-0.9-2-path", "fve-0.9-3-path"])
@pytest.mark.parametrize("solver", ["exp3", "heun", "ab2", "ab3", "exp-sde2"])
def test_60_steps_of_the_others_do(name, solver):
    assert excess(build(name), solver, 60) < 0.01


@pytest.mark.parametrize(
    ("name", "solver", "steps"),
    crossed(
        ["fvp-0.9-2", "fvp-0.1-2", "fve-0.9-3", "cld"],
        [("exp2", 100), ("exp3", 100), ("exp-sde", 400), ("exp-sde2", 100)],
    ),
)
def test_exponential_solvers_on_the_augmented_state_return_the_data_law(name, solver, steps):
    assert excess(build(name), solver, steps) < 0.01


def quantiles(dynamics: LinearDynamics, solver: str, steps: int) -> Tensor:
    """4,000 quantiles of what a solver returns: the flow of one variable is monotone, so there is no sampling error."""
    end = dynamics.moments(torch.ones(1, dtype=torch.float64)).std.item()
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    init = end * torch.special.ndtri(levels).reshape(1, 1, 1, -1)
    return sample(dynamics, MixtureDenoiser(dynamics), (1, 1, 4000), solver=solver, steps=steps, init=init).x.flatten()


@pytest.mark.parametrize("name", [later("fvp-0.9-2-path"), "fve-0.9-2-path", "vp"])
def test_two_orders_of_exponential_solvers_by_quantiles(name):
    def distance(solver: str, steps: int) -> float:
        return MIXTURE.distance(quantiles(build(name), solver, steps).numpy())

    assert distance("exp2", 400) < 2e-3
    assert distance("exp2", 50) < 6e-3 < distance("exp1", 50)


@pytest.mark.parametrize("name", ["fvp-0.9-2", "fvp-0.9-3", "fvp-0.7-2", "fvp-0.1-2", "fvp-0.8-2", "fvp-0.6-3"])
def test_the_default_needs_ten_evaluations(name):
    """As far from its own 400 steps as exp2 is after 20."""
    path = build(name).scalar_path()
    found, limit = (quantiles(path, default_solver(path), steps) for steps in (10, 400))
    assert (found.sort().values - limit).abs().mean() < 8e-3
    assert MIXTURE.distance(limit.numpy()) < 2e-3


@pytest.mark.parametrize(
    ("family", "solver", "steps", "gap"),
    [(FVE, "exp2", 60, 0.05), later(FVE, "em", 1000, 0.05), (FVP, "exp2", 60, 0.01)],
)
def test_prior_with_the_datas_moments_mends_a_small_final_noise_level(family, solver, steps, gap):
    # data of mean 0.3, sigma(T) = 1.2 and 5.7: the published prior has the wrong mean
    data = Mixture(means=(-0.43, 0.27, 1.07))
    dynamics = family(0.9, 5) if solver == "em" else family(0.9, 5).scalar_path()
    published = excess(dynamics, solver, steps, data)
    dynamics.prior = Prior(dynamics, data.mean, data.variance)
    assert excess(dynamics, solver, steps, data) < min(0.01, published - gap)
