"""Laws of training times, against the noise levels they are meant to have."""

import math

import pytest
import torch

from common.dynamics import VE, VP
from common.refusal import Refusal
from common.training.times import TIME_SAMPLINGS, growth
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVP

T_MIN = 1e-5
U = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000  # every quantile once
MEMBERS = {
    "vp": VP,
    "ve": VE,
    "fvp": lambda: FVP(0.9, 3),
    "heat": lambda: HeatSubVP((8, 8), x_norm=8, energy_norm=1.0),
}


def levels(name: str, member: str) -> torch.Tensor:
    dynamics = MEMBERS[member]()
    t = TIME_SAMPLINGS[name](dynamics, T_MIN)(U)
    assert t.dtype == torch.float64
    assert float(t.min()) >= T_MIN
    assert float(t.max()) <= dynamics.horizon
    return dynamics.log_sigma(t)


def test_uniform_is_the_published_law():
    t = TIME_SAMPLINGS["uniform"](VP(), T_MIN)(U)
    assert torch.allclose(t, T_MIN + (1 - T_MIN) * U, rtol=0, atol=1e-15)


@pytest.mark.parametrize("member", MEMBERS)
def test_log_sigma_is_uniform_in_log_sigma(member):
    dynamics = MEMBERS[member]()
    low, high = dynamics.log_sigma(torch.tensor([T_MIN, 1.0])).tolist()
    found = levels("log_sigma", member)
    assert float((found - (low + (high - low) * U)).abs().max()) < 2e-3 * (high - low)


@pytest.mark.parametrize("member", MEMBERS)
def test_lognormal_is_a_normal_law_of_log_sigma_cut_to_the_dynamics(member):
    """Kolmogorov-Smirnov distance to the truncated normal law of EDM."""
    dynamics = MEMBERS[member]()
    low, high = dynamics.log_sigma(torch.tensor([T_MIN, 1.0])).tolist()
    normal = torch.distributions.Normal(torch.tensor(-1.2, dtype=torch.float64), 1.2)
    below, above = normal.cdf(torch.tensor([low, high], dtype=torch.float64))
    share = (normal.cdf(levels("lognormal", member).sort().values) - below) / (above - below)
    assert float((share - U).abs().max()) < 2e-3


@pytest.mark.parametrize("name", TIME_SAMPLINGS)
def test_the_ends_are_times(name):
    t = TIME_SAMPLINGS[name](VP(), T_MIN)(torch.tensor([0.0, math.nextafter(1, 0)], dtype=torch.float64))
    assert torch.isfinite(t).all()
    assert float(t[0]) == pytest.approx(T_MIN, rel=1e-9)
    assert float(t[1]) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("name", TIME_SAMPLINGS)
@pytest.mark.parametrize("t_min", [0.0, 1e-7, 1.0, math.nan])
def test_a_smallest_time_outside_the_process_is_refused(name, t_min):
    with pytest.raises(Refusal, match=r"t_min must lie in \[1e-06, 1.0\), got"):
        TIME_SAMPLINGS[name](VP(), t_min)


def test_a_noise_level_that_falls_is_refused():
    with pytest.raises(ValueError, match=r"rises"):
        TIME_SAMPLINGS["log_sigma"](FVP(0.1, 3, marginals="paper"), T_MIN)


def test_growth_of_the_times_is_63_percent_after_its_time_constant():
    assert growth(0, 0) == growth(10**6, 0) == 1.0
    assert growth(9999, 10000) == pytest.approx(1 - math.exp(-1))
    assert growth(0, 10000) == pytest.approx(1e-4, rel=1e-3)
    shares = [growth(step, 100) for step in range(2000)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("name", TIME_SAMPLINGS)
def test_no_time_is_below_the_smallest_one_in_the_first_step(name, member):
    """The published schedule multiplies the times, so that its first step sees clean data only."""
    t = TIME_SAMPLINGS[name](MEMBERS[member](), T_MIN)(U * growth(0, 10000))
    assert float(t.min()) >= T_MIN
