"""Laws, priors, transitions and times against the exact reference, at published and at far arguments.

benchmarks/sweep_law.py compares the same over everything that the constructors accept.
"""

import mpmath as mp
import numpy as np
import pytest

from benchmarks.sweep_law import BUILD, compare, look_at
from tests import oracles
from tests.dynamics import exact

BAR = 1e-8  # of errors that are relative, or in units of the law
TIMES = 6
CASES = {  # published arguments first
    "fvp": ("fvp", {}),
    "fvp-4": ("fvp", {"hurst": 0.7, "num_aug": 4}),
    "fvp-paper": ("fvp", {"hurst": 0.3, "num_aug": 3, "marginals": "paper"}),
    "fve": ("fve", {}),
    "fve-5": ("fve", {"hurst": 0.1, "num_aug": 5, "normalize": False}),
    "cld": ("cld", {}),
    "heat": ("heat", {"shape": (5, 6), "x_norm": 6.0, "energy_norm": 64.0}),
    "fvp-slow": ("fvp", {"num_aug": 3, "gamma_max": 2.0, "beta_min": 1e-6, "beta_max": 1e-6}),
    "fvp-constant": ("fvp", {"hurst": 0.9999, "num_aug": 1, "beta_min": 20.0, "aug_init_var": 100.0}),
    "fve-wide": ("fve", {"num_aug": 3, "sigma_min": 1e-3, "sigma_max": 1e4, "hurst": 1e-4}),
    "fvp-6": ("fvp", {"num_aug": 6}),
    "fvp-fast": ("fvp", {"gamma_max": 100.0, "beta_max": 100.0}),
    "cld-heavy": ("cld", {"beta": 10.0, "mass": 1e4, "initial_share": 1e-6}),
    "vp-fast": ("vp", {"beta_min": 0.0, "beta_max": 1000.0}),
    "subvp": ("subvp", {"beta_max": 1000.0}),
    "ve": ("ve", {"sigma_min": 1e-8, "sigma_max": 1e8}),
    "edm": ("edm", {}),
    "flow": ("flow", {}),
}


LONG = {"fvp", "fvp-4", "fvp-paper", "fvp-slow", "fvp-fast", "fve-wide"}  # seconds each, in mpmath


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in CASES])
def test_law_is_the_exact_one(name):
    member, arguments = CASES[name]
    dynamics = BUILD[member](**arguments)
    times = look_at(dynamics, TIMES, np.random.default_rng(0))
    errors = compare(member, dynamics, arguments, times)
    assert {"scale", "std", "log_sigma", "mean", "cov", "weight", "complement", "prior"} <= errors.keys()
    assert {"transition", "carried", "level", "time"} <= errors.keys() or "paper" in name
    assert {quantity: found for quantity, found in errors.items() if not found[0] <= BAR} == {}


# -- the reference itself ----------------------------------------------------------------------------------------------

EARLY_AND_LATE = [1e-6, 0.03, 1.0]


def furthest(first: list[exact.Law], second: list[exact.Law]) -> float:
    """Largest difference of any field, in units of the field's largest entry."""
    found = [mp.mpf(0)]
    for a, b in zip(first, second, strict=True):
        for name in ("mean", "cov", "weight", "scale", "std", "log_sigma", "complement"):
            x, y = (np.ravel(getattr(law, name)) for law in (a, b))
            size = max(map(abs, y))
            found.append(max(map(abs, x - y)) / size if size else max(map(abs, x)))
    return float(max(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_aug": 2, "aug_init_var": 1e-12},
        {"num_aug": 1, "beta_min": 0.0, "beta_max": 300.0, "normalize": False},
    ],
)
def test_reference_does_not_depend_on_its_panels(arguments, monkeypatch):
    usual = exact.laws("fvp", [0.03, 1.0], **arguments)
    monkeypatch.setattr(exact, "REACH", 8)
    monkeypatch.setattr(exact, "GROWTH", 0.6)
    assert furthest(exact.laws("fvp", [0.03, 1.0], **arguments), usual) < 1e-35


@pytest.mark.parametrize("arguments", [{}, {"beta_min": 0.0, "beta_max": 300.0}, {"beta_min": 3.0, "beta_max": 3.0}])
def test_reference_without_augmentation_is_vp(arguments):
    assert (
        furthest(
            exact.laws("fvp", EARLY_AND_LATE, num_aug=0, **arguments), exact.laws("vp", EARLY_AND_LATE, **arguments)
        )
        < 1e-35
    )


def test_reference_without_augmentation_is_ve():
    assert furthest(exact.laws("fve", EARLY_AND_LATE, num_aug=0), exact.laws("ve", EARLY_AND_LATE)) < 1e-35


@pytest.mark.parametrize("member", [pytest.param("fvp", marks=pytest.mark.slow), "fve", "cld"])
def test_reference_solves_the_moment_equations(member):
    sde = {"fvp": lambda: oracles.fvp(0.7, 3), "fve": lambda: oracles.fve(0.7, 3), "cld": oracles.cld}[member]()
    times = np.array([0.02, 0.5, 1.0])
    laws = exact.laws(member, times.tolist(), **({} if member == "cld" else {"hurst": 0.7, "num_aug": 3}))
    means, covs = oracles.moments(sde, times)
    for law, mean, cov, sigma in zip(laws, means, covs, oracles.information(means, covs), strict=True):
        deviation = np.sqrt(np.diag(cov))
        assert np.abs((law.mean.astype(float) - mean) / deviation).max() < 1e-9 * np.abs(mean / deviation).max()
        assert np.abs((law.cov.astype(float) - cov) / np.outer(deviation, deviation)).max() < 1e-9
        assert float(law.log_sigma) == pytest.approx(np.log(sigma), abs=1e-7)
