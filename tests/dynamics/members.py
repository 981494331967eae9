"""The dynamics under test by name, built once a process, each with the same SDE written again (tests/oracles.py)."""

import functools
from collections.abc import Callable

from torch import Tensor

from common.dynamics import CLD, EDM, VE, VP, Flow, LinearDynamics, SubVP
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP
from tests import oracles

CLASSICAL: dict[str, tuple[Callable[[], LinearDynamics], Callable[[], oracles.SDE]]] = {
    "vp": (VP, oracles.vp),
    "subvp": (SubVP, oracles.subvp),
    "ve": (VE, oracles.ve),
    "edm": (EDM, oracles.edm),
    "flow": (Flow, oracles.flow),
    "cld": (CLD, oracles.cld),
    "cld-slow": (lambda: CLD(beta=0.7), lambda: oracles.cld(0.7)),  # keeps data in both components at T
}
FRACTIONAL = [
    f"{family}-{hurst}-{num_aug}"
    for family in ("fvp", "fve")
    for hurst, num_aug in ((0.5, 0), (0.1, 2), (0.9, 2), (0.3, 3), (0.5, 4), (0.9, 5), (0.1, 5))
]
HEATS = {
    "heat-8": ((8,), {"x_norm": 8, "energy_norm": 1.0, "beta_max": 5.0}),
    "heat-7": ((7,), {"x_norm": 64, "energy_norm": 256.0}),
    "heat-4x6": ((4, 6), {"x_norm": 32, "energy_norm": 1.0}),
    "heat-5x7": ((5, 7), {"x_norm": 32, "energy_norm": 1.0, "beta_max": 5.0}),
    "heat-6x5": ((6, 5), {"x_norm": 16, "energy_norm": 64.0}),
}
PIXEL = [*CLASSICAL, *FRACTIONAL]  # members of the pixel basis, convention `exact`
EVERY = [*PIXEL, *HEATS]


@functools.cache
def build(name: str) -> LinearDynamics:
    """A member by name, e.g. ``fvp-0.9-2`` (H, K), ``fve-0.9-2-paper``, ``heat-4x6``, or any of them with ``-path``."""
    if name.endswith("-path"):
        return build(name.removesuffix("-path")).scalar_path()
    if name in CLASSICAL:
        return CLASSICAL[name][0]()
    if name in HEATS:
        shape, constants = HEATS[name]
        return HeatSubVP(shape, **constants)
    family, hurst, num_aug, *marginals = name.split("-")
    members = {"fvp": FVP, "fve": FVE}
    return members[family](float(hurst), int(num_aug), marginals=marginals[0] if marginals else "exact")


def sde(name: str) -> oracles.SDE:
    """The member's SDE, independent of the library."""
    if name in CLASSICAL:
        return CLASSICAL[name][1]()
    family, hurst, num_aug = name.split("-")
    return getattr(oracles, family)(float(hurst), int(num_aug))


def data_shape(name: str) -> tuple[int, ...]:
    """A data grid that fits the member."""
    return HEATS[name.removesuffix("-path")][0] if name.removesuffix("-path") in HEATS else (4, 3)


def calls_of_a_step(dynamics: LinearDynamics, x0: Tensor, t: Tensor, z: Tensor) -> dict[str, Callable[[], object]]:
    """Every call that a step of training or sampling may make, given x0 (B, C, *S), t (B,) and z (B, A, C, *S)."""
    fields = ("mean", "cov", "weight", "scale", "std", "log_sigma", "sigma", "complement")
    return {
        "moments": lambda: [getattr(dynamics.moments(t), field) for field in fields],
        "perturb": lambda: dynamics.perturb(x0, t, x0),
        "metric": lambda: dynamics.metric,
        "sample_state": lambda: dynamics.sample_state(x0, t, z),
        "statistic": lambda: dynamics.statistic(z, t),
        "score": lambda: dynamics.score(z, t, x0),
        "attraction": lambda: dynamics.attraction(z, t, x0),
        "apply_drift": lambda: dynamics.apply_drift(z, t),
        "apply_diffusion": lambda: dynamics.apply_diffusion(x0, t),
        "reverse_sde": lambda: dynamics.reverse_drift(z, t, x0, stochastic=True),
        "reverse_ode": lambda: dynamics.reverse_drift(z, t, x0, stochastic=False),
        "prior": lambda: dynamics.prior.sample(tuple(x0.shape), z),
    }
