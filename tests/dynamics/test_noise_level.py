"""Noise level and time: where one names the other, where it does not, and the scalar path that rests on it."""

import numpy as np
import pytest
import torch

from common.dynamics import LinearDynamics
from common.samplers import GRIDS, sample
from gfdm.dynamics import FVE, FVP
from tests import oracles
from tests.dynamics.members import CLASSICAL, EVERY, build, sde

FALLING = [
    *((FVP, hurst, num_aug) for hurst in (0.1, 0.2, 0.3, 0.4) for num_aug in (2, 3, 5)),
    *((FVP, hurst, num_aug) for hurst, num_aug in ((0.5, 3), (0.5, 4), (0.5, 5), (0.6, 5), (0.7, 5))),
    *((FVE, hurst, num_aug) for hurst in (0.1, 0.2, 0.3, 0.4) for num_aug in (2, 3, 5)),
]
RISING = [
    *((member, hurst, 1) for member in (FVP, FVE) for hurst in (0.1, 0.5, 0.9)),
    *(
        (FVP, hurst, num_aug)
        for hurst, num_aug in ((0.5, 2), (0.6, 2), (0.6, 4), (0.7, 2), (0.7, 4), (0.8, 5), (0.9, 5))
    ),
    *(
        (FVE, hurst, num_aug)
        for hurst, num_aug in ((0.5, 2), (0.5, 4), (0.5, 5), (0.6, 3), (0.7, 5), (0.9, 3), (0.9, 5))
    ),
]


def named(case) -> str:
    member, hurst, num_aug = case
    return f"{member.__name__}-{hurst}-{num_aug}"


def deepest_fall(case) -> float:
    """By how much log sigma falls below its highest value before, under `paper`, from the oracle's own covariance."""
    num_aug = case[2]
    reference = sde(named(case).lower())
    times = np.unique(np.concatenate([np.geomspace(1e-5, 0.1, 400), np.linspace(0.01, 1, 2000)]))
    phi, cov = oracles.solve(reference, times)
    extra = np.einsum("tkk,kk->tk", phi**2, reference.start)
    level = np.log(oracles.information(phi[:, :, 0], cov + np.einsum("tk,kj->tkj", extra, np.eye(num_aug + 1))))
    return float((np.maximum.accumulate(level) - level).max())


@pytest.mark.parametrize("case", FALLING, ids=named)
def test_paper_marginals_that_fall_are_refused(case):
    member, hurst, num_aug = case
    dynamics = member(hurst, num_aug, marginals="paper")
    assert deepest_fall(case) > 1e-6
    assert not dynamics.is_monotone
    for purpose, call in {
        "time_at": lambda: dynamics.time_at(torch.zeros(1)),
        "scalar_path": dynamics.scalar_path,
    }.items():
        with pytest.raises(ValueError, match=rf"{purpose} needs a noise level.*marginals=paper.*marginals='exact'"):
            call()
    assert member(hurst, num_aug).is_monotone


@pytest.mark.parametrize("case", RISING, ids=named)
def test_paper_marginals_that_rise_are_accepted(case):
    member, hurst, num_aug = case
    dynamics = member(hurst, num_aug, marginals="paper")
    assert deepest_fall(case) < 1e-8
    assert dynamics.is_monotone
    assert dynamics.scalar_path().num_components == 1


def test_smallest_fall_is_seen():
    # FVE (0.5, 3) falls by 1.8365e-7 between t = 0.01377 and 0.01951: a true fall (closed form, 50 digits)
    dynamics = FVE(0.5, 3, marginals="paper")
    level = dynamics.log_sigma(torch.logspace(-2.5, -1.5, 2000, dtype=torch.float64))
    assert (level.cummax(0).values - level).max().item() == pytest.approx(1.8365e-7, rel=1e-3)
    assert not dynamics.is_monotone


def test_grids_and_solvers_name_what_they_refuse():
    dynamics = FVP(0.3, 2, marginals="paper")
    with pytest.raises(ValueError, match="time_at needs a noise level that never falls"):
        GRIDS["log_sigma"](dynamics, 1e-3, 10)
    with pytest.raises(ValueError, match=r"solver Exponential2 needs a noise level that never falls.*marginals=paper"):
        sample(dynamics, lambda v, t, labels: v, (1, 1, 2, 2), solver="exp2", steps=2, seeds=[0])


# -- time of a noise level ---------------------------------------------------------------------------------------------

PATHS = ["fvp-0.9-2-path", "fvp-0.3-3-path", "fve-0.9-2-path", "cld-path"]


@pytest.mark.parametrize("name", [*EVERY, *PATHS])
def test_time_at_inverts_the_noise_level(name):
    dynamics = build(name)
    ends = dynamics.log_sigma(torch.tensor([dynamics.t_min, dynamics.horizon], dtype=torch.float64))
    levels = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 301, dtype=torch.float64))
    t = dynamics.time_at(levels)
    assert t.dtype == torch.float64
    assert (dynamics.log_sigma(t) - levels).abs().max() < 1e-9
    assert (t.diff() >= 0).all()
    assert t.min() >= dynamics.t_min * (1 - 1e-12)
    assert t.max() <= dynamics.horizon


@pytest.mark.parametrize("name", [*CLASSICAL, "fvp-0.9-2", "fvp-0.5-4", "heat-4x6", "fvp-0.9-2-path"])
def test_time_at_returns_the_time_where_the_level_rises(name):
    dynamics = build(name)
    late = torch.linspace(0.1, dynamics.horizon, 40, dtype=torch.float64)
    t = torch.cat([torch.logspace(-5, -1, 40, dtype=torch.float64), late])
    assert torch.allclose(dynamics.time_at(dynamics.log_sigma(t)), t, rtol=1e-8 if name != "ve" else 1e-7, atol=0)


@pytest.mark.parametrize("name", ["vp", "fvp-0.9-2", "fve-0.9-2", "heat-8"])
def test_levels_out_of_range_give_the_end_times(name):
    dynamics = build(name)
    t = dynamics.time_at(torch.tensor([-1e3, 1e3]))
    assert t.tolist() == pytest.approx([dynamics.t_min, dynamics.horizon], rel=1e-12)


# -- the scalar path ---------------------------------------------------------------------------------------------------

SHARED = [
    "fvp-0.9-2",
    "fvp-0.3-3",
    "fvp-0.1-5",
    "fvp-0.9-5",
    "fve-0.9-2",
    "fve-0.1-2",
    "fve-0.9-5",
    "cld",
    "fvp-0.9-3-paper",
]


@pytest.mark.parametrize("name", SHARED)
def test_scalar_path_shares_scale_and_std(name):
    parent = build(name)
    path = parent.scalar_path()
    t = torch.rand(500, dtype=torch.float64)
    law, own = parent.moments(t), path.moments(t)
    assert isinstance(path, LinearDynamics)
    assert path.num_components == 1
    assert torch.allclose(own.scale, law.scale, rtol=1e-14, atol=0)
    assert torch.allclose(own.std, law.std, rtol=1e-14, atol=0)
    x0, noise = torch.randn(500, 1, 2, 2).double(), torch.randn(500, 1, 2, 2).double()
    assert torch.allclose(path.perturb(x0, t, noise), parent.perturb(x0, t, noise), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SHARED)
def test_scalar_path_is_the_law_of_its_own_sde(name):
    # dV = f V dt + g dW solved by SciPy from t = 1e-2 on
    path = build(name).scalar_path()
    t = np.linspace(1e-2, 1, 60)

    def at(t: float, function) -> float:
        return float(function(torch.tensor([t], dtype=torch.float64)))

    reference = oracles.classical(lambda s: at(s, path.drift), lambda s: at(s, path.diffusion))
    phi, cov = oracles.solve(reference, t, first=t[0], tolerance=1e-9)
    law = path.moments(torch.from_numpy(t))
    scale, variance = law.scale.numpy(), law.std.square().numpy()
    assert np.allclose(scale[0] * phi[:, 0, 0], scale, rtol=1e-7, atol=0)
    assert np.allclose(variance[0] * phi[:, 0, 0] ** 2 + cov[:, 0, 0], variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [name for name in SHARED if not name.endswith("paper")])
def test_scalar_path_is_driven_by_the_weighted_kick(name):
    # g^2 = (G' w)^2 under `exact`, since d(sigma^2)/dt = (G' psi)^2 and w = m psi
    parent = build(name)
    t = torch.cat([torch.logspace(-4, -1, 100, dtype=torch.float64), torch.linspace(0.1, 1, 200, dtype=torch.float64)])
    kick = (parent.diffusion_vector(t) * parent.moments(t).weight).sum(1).square()
    got = parent.scalar_path().diffusion(t).square()
    # where the level stands still both are rounding: in units of what a rate of 1 per log t would give
    unit = parent.moments(t).std.square() / t
    assert ((got - kick).abs() < 1e-6 * kick + 1e-7 * unit).all()


@pytest.mark.parametrize("name", [*CLASSICAL, "fvp-0.5-0", "heat-8"])
def test_one_component_is_its_own_scalar_path(name):
    dynamics = build(name)
    assert dynamics.scalar_path() is dynamics or dynamics.num_components > 1
