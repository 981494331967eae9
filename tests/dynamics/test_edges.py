"""Laws and maps at the edges of what a constructor accepts, against formulas in thirty digits; refusals beyond them."""

import mpmath as mp
import pytest
import torch
from torch import Tensor

from common.dynamics import CLD, VE, VP, Tabulated
from common.dynamics.classic import SubVP
from common.refusal import Refusal
from common.samplers.exponential import augmented_steps
from common.samplers.grids import uniform
from fdp.dynamics import HeatSubVP
from gfdm.dynamics import FVE, FVP
from tests.dynamics.members import build

mp.mp.dps = 30
TIMES = [1e-6, 1e-3, 0.1, 0.5, 1.0]


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scaled(error: Tensor, cov: Tensor) -> float:
    """Largest entry of an error of covariances (N, A, A), in deviations of its components."""
    deviation = cov.diagonal(dim1=1, dim2=2).sqrt()
    return (error / deviation.unsqueeze(1) / deviation.unsqueeze(2)).abs().max().item()


# -- fast rates --------------------------------------------------------------------------------------------------------

FAST = {
    "gamma-200": lambda **kw: FVP(0.9, 2, gamma_max=200, **kw),
    "gamma-1000": lambda **kw: FVP(0.9, 3, gamma_max=1000, **kw),
    "gamma-10000": lambda **kw: FVP(0.3, 2, gamma_max=1e4, **kw),
    "beta-1000": lambda **kw: FVP(0.9, 2, beta_max=1000, **kw),
    "beta-2800": lambda **kw: FVP(0.7, 2, beta_min=0, beta_max=2800, **kw),
}


@pytest.mark.parametrize("name", FAST)
def test_fast_processes_end_with_the_variance_that_is_promised(name):
    # Var X_T is 1 if Y starts at 0, and linear in the variance that Y starts with
    end = column([1.0])
    single, double = (FAST[name](aug_init_var=v).moments(end).cov[0, 0, 0].item() for v in (1e-3, 2e-3))
    assert 2 * single - double == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", FAST)
def test_fast_processes_are_carried_by_their_transitions(name):
    dynamics = FAST[name]()
    s, t = column([1e-5, 0.01, 0.3, 0.99, 0.001]), column([1e-3, 0.02, 1.0, 1.0, 0.9])
    maps, noise = dynamics.transition(s, t)
    start, end = dynamics.moments(s), dynamics.moments(t)
    assert scaled(maps @ start.cov @ maps.mT + noise - end.cov, end.cov) < 1e-9
    # the drift of X has one more exponential: m in closed form
    total = dynamics.beta.integral(t) - dynamics.beta.integral(s)
    assert torch.allclose(maps[:, 0, 0], (-total / 2).exp(), rtol=1e-10, atol=0)


def test_the_scale_of_a_strong_schedule():
    dynamics = FVP(0.9, 2, beta_max=500)
    exact = [-(mp.mpf("0.1") * t + (500 - mp.mpf("0.1")) * mp.mpf(t) ** 2 / 2) / 2 for t in TIMES]
    log_scale = dynamics.level_table(column(TIMES))[:, 0]
    assert torch.allclose(log_scale, column([float(x) for x in exact]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "steps"), [("fvp-0.9-2", 5), ("fvp-0.9-2", 20), ("fve-0.9-2", 5), ("cld", 5)])
def test_the_flows_coefficients_far_below_a_thousandth(name, steps):
    # given x0 the probability-flow ODE carries S to S
    dynamics = build(name)
    times = uniform(dynamics, 1e-5, steps)
    maps = augmented_steps(dynamics, times[:-1], times[1:], 1, stochastic=False).maps
    cov = dynamics.moments(times).cov
    assert scaled(maps @ cov[:-1] @ maps.mT - cov[1:], cov[1:]) < 1e-9


# -- strong damping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [VP, SubVP])
@pytest.mark.parametrize("most", [1500.0, 2799.0])
def test_strong_schedules_have_a_finite_noise_level(member, most):
    law = member(beta_max=most).moments(column(TIMES))
    for i, t in enumerate(TIMES):
        total = mp.mpf("0.1") * t + (most - mp.mpf("0.1")) * mp.mpf(t) ** 2 / 2
        std = (1 - mp.exp(-total)) if member is SubVP else mp.sqrt(1 - mp.exp(-total))
        assert law.scale[i].item() == pytest.approx(float(mp.exp(-total / 2)), rel=1e-10)
        assert law.std[i].item() == pytest.approx(float(std), rel=1e-10)
        assert law.log_sigma[i].item() == pytest.approx(float(mp.log(std) + total / 2), abs=1e-10)
    start = member(beta_max=most).prior.sample((1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2))
    assert torch.allclose(start, torch.ones_like(start))


@pytest.mark.parametrize(("beta", "mass"), [(200.0, 0.25), (4.0, 1e-4), (340.0, 0.25)])
def test_a_strongly_damped_langevin_process(beta, mass):
    # critical: exp(F t) = exp(-a t) (1 + (F + a) t) with a = beta / sqrt(mass); the end is stationary
    law = CLD(beta=beta, mass=mass).moments(column(TIMES))
    a = mp.mpf(beta) / mp.sqrt(mp.mpf(mass))
    for i, t in enumerate(TIMES):
        assert law.scale[i].item() == pytest.approx(float(mp.exp(-a * t) * (1 + a * t)), rel=1e-8)
        assert law.mean[i, 1].item() == pytest.approx(float(-beta * t * mp.exp(-a * t)), rel=1e-8)
    assert torch.allclose(law.cov[-1], torch.diag(column([1.0, mass])), rtol=1e-9, atol=1e-10)
    assert torch.isfinite(law.log_sigma).all()
    end = column([1.0])
    root = CLD(beta=beta, mass=mass)._root(end)
    assert torch.allclose(root @ root.mT, law.cov[-1:], rtol=1e-9, atol=1e-10)


def test_modes_that_are_gone_are_still_damped():
    dynamics = HeatSubVP((64,), x_norm=2000, beta_max=230, beta_min=20)
    s, t = column([0.98, 0.9, 0.5]), column([1.0, 0.91, 1.0])
    maps, noise = dynamics.transition(s, t)
    assert dynamics._damping(s).max() > 300
    total = [dynamics.const * (mp.exp(dynamics.c * mp.mpf(x.item())) - 1) for x in (*s, *t)]
    for i in range(3):
        for mode in (0, 5, 32):
            decay = mp.exp(-dynamics.b[mode].item() * (total[3 + i] - total[i]))
            kept = float((1 - decay**2) * dynamics.r[mode].item() / dynamics.b[mode].item())
            assert maps[i, 0, 0, mode].item() == pytest.approx(float(decay), rel=1e-9, abs=1e-300)
            assert noise[i, 0, 0, mode].item() == pytest.approx(kept, rel=1e-9)
    back, taken = dynamics.transition(t, s)
    assert torch.isfinite(back).all()
    assert torch.isfinite(taken).all()


# -- beyond ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "argument", "message"),
    [
        (lambda: VP(beta_max=3000), "beta_max", "with beta_min=0.1 at most 2799.9 "),
        (lambda: FVP(beta_min=2000, beta_max=2000), "beta_max", "with beta_min=2000 at most 800 "),
        (
            lambda: HeatSubVP((8, 8), x_norm=8, beta_max=500),
            "beta_max",
            "with beta_min=0.1 and x_norm=8 at most 395.*every mode",
        ),
        (lambda: CLD(beta=351), "beta", "with mass=0.25 at most 350 "),
        (lambda: CLD(mass=1e-5), "beta", "with mass=1e-05 at most 2.21"),
        (lambda: CLD(initial_share=11.0), "initial_share", "at most 10"),
        (lambda: CLD(beta=1e-6, initial_share=1.0), "initial_share", "larger beta or a smaller mass"),
        (lambda: FVP(0.5, 3, gamma_max=1.1e4), "gamma_max", "at most 10000"),
        (lambda: FVP(0.9, 5, aug_init_var=1e-12), "aug_init_var", "nearer to 1e-4, or a smaller num_aug"),
        (lambda: FVE(0.1, 8), "num_aug", "8 is too large: the weights .* nearly cancel; up to 6 work"),
        (lambda: FVP(0.5, 13), "num_aug", "13 is too large.*up to 6 work"),
    ],
)
def test_what_float64_cannot_hold_is_refused_by_name(make, argument, message):
    with pytest.raises(Refusal, match=message) as refusal:
        make()
    assert refusal.value.argument == argument


class Oscillator(Tabulated):
    """Data that swings to its negative: m is cos(rate t), nearly."""

    def __init__(self, rate: float = 10.0) -> None:
        super().__init__(2, rate)
        self.tabulate()

    def drift_matrix(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, self.rate], [-self.rate, -1.0]], dtype=torch.float64).expand(len(t), 2, 2)

    def diffusion_vector(self, t: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0], dtype=torch.float64).expand(len(t), 2)

    def initial_cov(self) -> Tensor:
        return torch.diag(column([0.0, 0.1]))


def test_a_scale_that_falls_below_0_is_refused():
    assert Oscillator(1.0).moments(column([1.0])).scale > 0  # a quarter of a turn ends at 1.57
    with pytest.raises(Refusal, match=r"Oscillator: the scale is -0\.00\d+ at t = 0\.1[56]\d*"):
        Oscillator()


def test_ranges_of_noise_levels_are_wide():
    for dynamics in (VE(1e-8, 1e8), FVE(0.9, 0, sigma_min=1e-8, sigma_max=1e8)):
        assert dynamics.moments(column([0.5, 1.0])).sigma.tolist() == pytest.approx([1.0, 1e8], rel=1e-9)
