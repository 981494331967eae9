"""What simulation sees: forward paths, drawn states and the prior have the law that the tables say.

Sample covariances of N draws scatter by sqrt((S_ii S_jj + S_ij^2) / N); five of these are allowed.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.dynamics import VP, Prior
from gfdm.dynamics import FVP
from tests import oracles
from tests.dynamics.members import EVERY, HEATS, PIXEL, build, data_shape, sde

SIMULATED = ["vp", "subvp", "ve", "cld", "fvp-0.9-2", "fvp-0.3-3", "fvp-0.9-5", "fve-0.1-2", "fve-0.9-2", "fve-0.3-3"]


def scatter(cov: oracles.Array, count: int) -> oracles.Array:
    """Standard error of each entry of the sample covariance of Gaussian draws."""
    return np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / count)


def check_law(draws: Tensor, mean: oracles.Array, cov: oracles.Array, bias: float = 0.0) -> None:
    """Draws (N, D) have this mean and covariance, within five standard errors and a relative bias."""
    sample = draws.double().numpy()
    count, deviation = len(sample), np.sqrt(np.diag(cov))
    residual = sample - mean
    assert (np.abs(residual.mean(0)) < 5 * deviation / np.sqrt(count) + bias * (deviation + np.abs(mean))).all()
    units = np.outer(deviation, deviation)
    assert (np.abs(residual.T @ residual / count - cov) < 5 * scatter(cov, count) + bias * units).all()


def simulate(dynamics, z: Tensor, steps: int, stop: float) -> Tensor:
    """Forward paths by the stochastic midpoint rule, z + G dW + h F(t_mid) (z + (h F z + G dW) / 2)."""
    h = stop / steps
    for k in range(steps):
        middle = torch.tensor([(k + 0.5) * h], dtype=torch.float64)
        kick = h**0.5 * dynamics.apply_diffusion(torch.randn_like(z[:, 0]), middle)
        half = z + (h * dynamics.apply_drift(z, middle) + kick) / 2
        z = z + kick + h * dynamics.apply_drift(half, middle)
    return z


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        *((name, 1.0) for name in SIMULATED),
        *((name, 0.2) for name in ("cld", "fvp-0.9-2", "fve-0.3-3")),
        ("edm", 1.0),
        ("flow", 0.8),  # towards T its drift grows beyond what these steps resolve
    ],
)
def test_simulated_paths_have_the_tabulated_law(name, stop):
    dynamics, start = build(name), np.sqrt(np.diag(sde(name).start))
    count, x0, size = 8_000, 0.7, dynamics.num_components
    z = torch.randn(count, size, 1, 1, dtype=torch.float64) * torch.from_numpy(start).reshape(1, size, 1, 1)
    z[:, 0] += x0
    z = simulate(dynamics, z, steps=200, stop=stop)[:, :, 0]
    t = torch.tensor([stop], dtype=torch.float64)
    law = dynamics.moments(t)
    check_law(z[:, :, 0], x0 * law.mean[0].numpy(), law.cov[0].numpy(), bias=2e-3)
    # what a network would see: far less variance than X itself has, so a sharper test of the correlations
    v = dynamics.statistic(z.unsqueeze(3), t).flatten()
    check_law(v[:, None], x0 * law.scale.numpy(), law.std.square().numpy()[:, None], bias=1e-2)


@pytest.mark.parametrize("name", ["heat-8", "heat-5x7"])
def test_simulated_fields_have_the_law_of_their_modes(name):
    dynamics, shape, count, stop = build(name), HEATS[name][0], 3_000, 0.7
    x0 = torch.linspace(-1, 1, int(np.prod(shape)), dtype=torch.float64).reshape(1, 1, *shape)
    z = simulate(dynamics, x0.expand(count, 1, *shape).unsqueeze(1), steps=60, stop=stop).flatten(1)
    t = torch.tensor([stop], dtype=torch.float64)
    identity = torch.eye(z.shape[1], dtype=torch.float64).reshape(-1, 1, *shape)
    root = dynamics.perturb(torch.zeros_like(identity), t.expand(len(identity)), identity).flatten(1)
    mean = dynamics.perturb(x0, t, torch.zeros_like(x0)).flatten()
    check_law(z, mean.numpy(), (root.mT @ root).numpy(), bias=5e-3)


@pytest.mark.parametrize("share", [1e-3, 0.4, 1.0])
@pytest.mark.parametrize("name", PIXEL)
def test_drawn_states_have_the_law_of_the_sde(name, share):
    dynamics, count, x0 = build(name), 40_000, -0.4
    t = share * dynamics.horizon
    mean, cov = oracles.moments(sde(name), np.array([t]))
    noise = torch.randn(count, dynamics.num_components, 1, 1, dtype=torch.float64)
    times = torch.tensor([t], dtype=torch.float64)
    z = dynamics.sample_state(torch.full((count, 1, 1), x0, dtype=torch.float64), times, noise)[:, :, 0]
    check_law(z[:, :, 0], x0 * mean[0], cov[0])
    v = dynamics.statistic(z.unsqueeze(3), times)[:, 0]
    law = dynamics.moments(times)
    check_law(v, x0 * law.scale.numpy(), law.std.square().numpy()[:, None])


@pytest.mark.parametrize("name", EVERY)
def test_statistic_of_a_state_is_what_perturb_draws(name):
    # w . (M x0 + root noise) = m x0 + sc noise_1: the first column of the root is M sigma, the others are unseen
    dynamics, shape = build(name), data_shape(name)
    t = torch.tensor([0.05, 0.5, dynamics.horizon], dtype=torch.float64)
    x0 = torch.randn(3, 2, *shape, dtype=torch.float64)
    noise = torch.randn(3, dynamics.num_components, 2, *shape, dtype=torch.float64)
    seen = dynamics.statistic(dynamics.sample_state(x0, t, noise), t)
    drawn = dynamics.perturb(x0, t, noise[:, 0])
    unit = dynamics.moments(t).std.flatten(1).amax(1) if dynamics.basis.modes else dynamics.moments(t).std
    assert ((seen - drawn).abs().flatten(1).amax(1) < 1e-6 * unit).all()


# -- the prior ---------------------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.3, 0.25
START = ["vp", "ve", "edm", "flow", "cld", "cld-slow", "fvp-0.9-2", "fvp-0.9-5", "fve-0.9-5", "fve-0.3-3"]


@pytest.mark.parametrize("name", START)
@pytest.mark.parametrize("moments", [(0.0, 0.0), (MEAN, VARIANCE)])
def test_prior_is_the_law_at_the_horizon(name, moments):
    dynamics, count = build(name), 40_000
    mean, cov = (field[0] for field in oracles.moments(sde(name), np.array([dynamics.horizon])))
    noise = torch.randn(count, dynamics.num_components, 1, 1, dtype=torch.float64)
    z = Prior(dynamics, *moments).sample((count, 1, 1), noise)[:, :, 0, 0]
    check_law(z, moments[0] * mean, cov + moments[1] * np.outer(mean, mean))


@pytest.mark.parametrize("name", START)
def test_prior_with_the_datas_moments_is_where_data_end(name):
    # the law of Z_T for data N(mean, variance), reached through sample_state
    dynamics, count = build(name), 40_000
    size = dynamics.num_components
    x0 = MEAN + VARIANCE**0.5 * torch.randn(count, 1, 1, dtype=torch.float64)
    noise = torch.randn(count, size, 1, 1, dtype=torch.float64)
    end = dynamics.sample_state(x0, torch.tensor([dynamics.horizon], dtype=torch.float64), noise)[:, :, 0, 0]
    mean, cov = (field[0] for field in oracles.moments(sde(name), np.array([dynamics.horizon])))
    check_law(end, MEAN * mean, cov + VARIANCE * np.outer(mean, mean))


@pytest.mark.parametrize("moments", [(0.0, 0.0), (MEAN, VARIANCE)])
def test_prior_of_heat_dynamics_per_mode(moments):
    dynamics, shape, count = build("heat-4x6"), (4, 6), 20_000
    z = Prior(dynamics, *moments).sample((count, 1, *shape), torch.randn(count, 1, 1, *shape)).flatten(1)
    law = dynamics.moments(torch.ones(1, dtype=torch.float64))
    per_mode = (law.std.square() + moments[1] * law.scale.square()).sqrt()
    identity = torch.eye(24, dtype=torch.float64).reshape(24, 1, *shape)
    root = dynamics.basis.scale(per_mode, identity).flatten(1)
    flat = dynamics.basis.scale(law.scale, torch.full((1, 1, *shape), moments[0], dtype=torch.float64))
    check_law(z, flat.flatten().numpy(), (root.mT @ root).numpy())


def test_prior_refuses_a_wrong_shape_and_a_negative_variance():
    with pytest.raises(
        ValueError, match=r"noise of the prior must have shape \(2, 3, 1, 4, 4\), got \(2, 1, 1, 4, 4\)"
    ):
        FVP(0.9, 2).prior.sample((2, 1, 4, 4), torch.randn(2, 1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"variance of the prior must be at least 0, got -1"):
        Prior(VP(), 0.0, -1.0)


def test_scalar_path_starts_from_the_prior_of_its_parent():
    # on the path v = w . z, so its start is the statistic of the parent's start, in law
    dynamics = FVP(0.9, 3)
    dynamics.prior = Prior(dynamics, MEAN, VARIANCE)
    path = dynamics.scalar_path()
    assert path.prior.tensors() == {"mean": MEAN, "variance": VARIANCE}
    noise = torch.randn(5, 4, 1, 2, 2, dtype=torch.float64)
    start = dynamics.statistic(dynamics.prior.sample((5, 1, 2, 2), noise), torch.ones(1))
    assert torch.allclose(start, path.prior.sample((5, 1, 2, 2), noise[:, :1])[:, 0], rtol=1e-9)


def test_prior_says_what_it_is():
    prior = Prior(VP(), 0.25, 0.5)
    assert prior.tensors() == {"mean": 0.25, "variance": 0.5}
    assert VP().prior.tensors() == {"mean": 0.0, "variance": 0.0}
