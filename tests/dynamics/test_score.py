"""The score of Gaussian data: closed form with the oracle's own M and S, and golden numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.dynamics import VE, VP
from gfdm.dynamics import FVE, FVP
from tests import oracles
from tests.dynamics.members import PIXEL, build, sde

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "score.json").read_text())["cases"]
TIMES = np.array([1e-4, 1e-3, 0.03, 0.3, 0.7, 0.93, 1.0])  # shares of T
MEAN, STD = 0.3, 0.2


def gaussian(name: str, seed: int = 0) -> tuple[oracles.Array, oracles.Array, oracles.Array]:
    """States (N, A, C, P) drawn from p_t of data N(0.3, 0.2^2), their scores and posterior means of x0 (N, C, P)."""
    mean, cov = oracles.moments(sde(name), TIMES * sde(name).horizon)
    rng = np.random.default_rng(seed)
    states, scores, posterior = [], [], []
    for m, s in zip(mean, cov, strict=True):
        total = s + STD**2 * np.outer(m, m)
        unit = np.sqrt(np.diag(total))
        correlation = total / np.outer(unit, unit)
        white = rng.standard_normal((len(m), 6))
        residual = np.linalg.cholesky(correlation) @ white
        solved = np.linalg.solve(correlation, residual) / unit[:, None]
        states.append((residual * unit[:, None] + MEAN * m[:, None]).reshape(-1, 2, 3))
        scores.append(-solved.reshape(-1, 2, 3))
        posterior.append((MEAN + STD**2 * m @ solved).reshape(2, 3))
    return np.stack(states), np.stack(scores), np.stack(posterior)


@pytest.mark.parametrize("name", [*PIXEL, "fvp-0.7-5", "fve-0.7-4"])
def test_score_of_gaussian_data(name):
    states, scores, posterior = (torch.from_numpy(x) for x in gaussian(name))
    dynamics, t = build(name), torch.from_numpy(TIMES * sde(name).horizon)
    got = dynamics.score(states, t, posterior)
    error = (got - scores).abs().amax((2, 3))  # of every component, in units of its own score
    law = dynamics.moments(t)
    rounding = 1e-13 * (law.weight * (law.scale / law.std.square()).unsqueeze(1)).abs()  # of u - x0_hat, over sigma^2
    assert (error <= 1e-7 * scores.abs().amax((2, 3)) + rounding).all()


@pytest.mark.parametrize("name", PIXEL)
def test_denoiser_of_the_statistic_is_the_posterior_mean(name):
    # v is sufficient: E[x0 | v] = E[x0 | z]
    states, _, posterior = (torch.from_numpy(x) for x in gaussian(name, seed=1))
    dynamics, t = build(name), torch.from_numpy(TIMES * sde(name).horizon)
    got = oracles.GaussianDenoiser(dynamics, MEAN, STD)(dynamics.statistic(states, t), t)
    assert torch.allclose(got, posterior, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["fvp-0.9-2", "fve-0.9-2", "cld", "vp", "edm", "flow"])
def test_score_in_float32(name):
    states, scores, posterior = (torch.from_numpy(x) for x in gaussian(name))
    dynamics, t = build(name), torch.from_numpy(TIMES * sde(name).horizon)
    got = dynamics.score(states.float(), t, posterior.float())
    assert got.dtype == torch.float32
    late = t > 0.01  # before that X and Y (or V) are almost one number, and float32 cannot tell them apart
    error = (got - scores)[late].abs().amax((2, 3)) / scores[late].abs().amax((2, 3))
    assert error.max() < 1e-3
    assert torch.isfinite(got).all()


def named(case: dict) -> str:
    return f"{case['dyn']}-H{case['hurst']}-K{case['num_aug']}-t{case['t']}-{'norm' if case['norm'] else 'plain'}"


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{i}-{named(case)}") for i, case in enumerate(GOLDEN)])
def test_golden_score_and_network_target(case):
    if case["num_aug"]:
        member = {"fvp": FVP, "fve": FVE}[case["dyn"]]
        dynamics = member(case["hurst"], case["num_aug"], normalize=case["norm"], marginals="paper")
    else:
        dynamics = {"fvp": VP, "fve": VE}[case["dyn"]]()
    z = torch.tensor([case["x"], *case["y"]], dtype=torch.float64).reshape(1, -1, 1, 1, 1)
    t = torch.tensor([case["t"]], dtype=torch.float64)
    law = dynamics.moments(t)
    v = dynamics.statistic(z, t)
    size = max(1.0, np.abs(case["y"]).max(initial=0), abs(case["x"]))
    assert v.item() == pytest.approx(case["net_input_x"], abs=1e-9 * size)
    assert law.std.square().item() == pytest.approx(case["cond_var"], rel=1e-9)
    assert law.scale.item() == pytest.approx(case["mean_scale"], rel=1e-12)

    x0_hat = oracles.GaussianDenoiser(dynamics, MEAN, STD)(v, t)
    noise_hat = (v - law.scale * x0_hat) / law.std
    assert noise_hat.item() == pytest.approx(case["optimal_net"], rel=1e-7, abs=1e-9)
    got, want = dynamics.score(z, t, x0_hat).flatten().numpy(), np.array(case["true_score"])
    assert np.abs(got - want).max() < 1e-9 * np.linalg.norm(want)
