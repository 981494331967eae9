"""Solvers along the angle: the circle that they move on, what they are exact for, what they refuse."""

import math

import pytest
import torch

from common.dynamics import LinearDynamics, Prior
from common.refusal import Refusal
from common.samplers import SOLVERS, sample
from common.samplers.angle import Place
from fdp.dynamics import HeatSubVP
from tests.dynamics.members import build
from tests.samplers.fields import Field, smooth_field

SOLVERS_ALONG_IT = ("ab2", "ab3", "heun")
FIELD = smooth_field((16,))


def heat(variance: torch.Tensor | float, x_norm: float = 16) -> LinearDynamics:
    dynamics = HeatSubVP(FIELD.shape, x_norm=x_norm, energy_norm=1, beta_max=5.0)
    dynamics.prior = Prior(dynamics, 0.0, variance)
    return dynamics


def test_a_state_turns_by_the_angle():
    """v / r = cos(phi) x0 + sin(phi) eps, V is its derivative, and the way back along a slope ends where it began."""
    dynamics = build("fvp-0.9-2-path")
    here, there = (Place(dynamics, torch.tensor([t], dtype=torch.float64)) for t in (0.6, 0.5))
    x0, noise = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    law = dynamics.moments(0.6)
    v = law.scale * x0 + law.std * noise
    phi = here.angle
    assert torch.allclose(v / here.radius, phi.cos() * x0 + phi.sin() * noise)
    assert torch.allclose(here.slope(v, x0), phi.cos() * noise - phi.sin() * x0)
    slope = torch.randn_like(v)
    assert torch.allclose(there.carry(here.carry(v, slope, there), slope, here), v)
    assert 0 < there.angle < here.angle < math.pi / 2


@pytest.mark.parametrize("solver", SOLVERS_ALONG_IT)
def test_gaussian_data_of_known_spectrum_take_one_step(solver):
    dynamics, field = heat(FIELD.spectrum), Field(0 * FIELD.mean, FIELD.spectrum)
    init = dynamics.prior.sample((4, 1, 16), torch.randn(4, 1, 1, 16, dtype=torch.float64))

    def run(steps: int) -> torch.Tensor:
        return sample(dynamics, field.denoiser(dynamics), (4, 1, 16), solver=solver, steps=steps, init=init).x

    torch.testing.assert_close(run(1), run(20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS_ALONG_IT)
def test_no_mode_overflows_however_little_of_the_data_is_left(solver):
    dynamics = heat(0.0, x_norm=50_000)
    assert dynamics.moments(1.0).scale.min() < 1e-25
    run = sample(dynamics, FIELD.denoiser(dynamics), (4, 1, 16), solver=solver, steps=8, seeds=range(4))
    assert run.x.isfinite().all()
    assert run.x.abs().max() < 10
    assert run.nfe == 8 * SOLVERS[solver].evaluations


@pytest.mark.parametrize("solver", SOLVERS_ALONG_IT)
def test_several_components_are_refused_by_name(solver):
    dynamics = build("fvp-0.9-2")
    with pytest.raises(Refusal, match=rf"{SOLVERS[solver].__name__} runs on one component, got 3 of FVP\(") as refused:
        sample(dynamics, lambda v, t, labels: v, (1, 1, 2), solver=solver, steps=2, seeds=[0])
    assert refused.value.argument == "solver"
