"""Gaussian random fields with the exact denoiser: the law that each solver returns, mode by mode.

Solvers are linear in the state under such data: they are read off their transfer functions, without any sampling error
(tests/samplers/fields.py).
"""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.dynamics import LinearDynamics, Prior
from common.samplers import GRIDS, SOLVERS, Posterior, PredictorCorrector, Solver, sample
from fdp.dynamics import HeatSubVP
from tests import oracles
from tests.dynamics.members import CLASSICAL, build
from tests.marks import later
from tests.samplers.fields import Field, Law, frequencies, law_from_published_prior, returned_law, smooth_field

LENGTH, END = 16, 1e-2
FIELD = smooth_field((LENGTH,))
PUBLISHED = {  # grids and constants of the published runs
    "mnist": ((32, 32), {"beta_max": 5.0, "x_norm": 32, "energy_norm": 1}),
    "uvit-celeba": ((64, 64), {"beta_max": 10.0, "x_norm": 64, "energy_norm": 64}),
}


def with_prior(dynamics: LinearDynamics, field: Field) -> LinearDynamics:
    """The dynamics, started from the data's own law at T; in the pixel basis with the same variance in every mode."""
    dynamics.prior = Prior(dynamics, field.mean.unsqueeze(0), field.spectrum if dynamics.basis.modes else 1.0)
    return dynamics


def heat(field: Field) -> LinearDynamics:
    """Heat dynamics on the field's grid, with its prior."""
    return with_prior(HeatSubVP(field.shape, x_norm=LENGTH, energy_norm=1, beta_max=5.0), field)


def under(name: str, field: Field = FIELD) -> LinearDynamics:
    if name == "heat":
        return heat(field)
    return with_prior(CLASSICAL[name][0](), field) if name in ("edm", "flow") else build(name)


def distance(got: Law, want: Law) -> tuple[float, float]:
    """Worst error of a mode's mean in its deviations, and worst relative error of a mode's variance."""
    mean = (got.mean - want.mean).abs() / want.variance.sqrt()
    return mean.max().item(), (got.variance / want.variance - 1).abs().max().item()


def pc(predictor: str, *, factor: float = 1.0, stochastic: bool = True) -> Callable[[], Solver]:
    return lambda: PredictorCorrector(predictor, "none", factor=factor, stochastic=stochastic)


# -- the law of the data -----------------------------------------------------------------------------------------------

SCHEMES: dict[str, tuple[Callable[[], Solver], float, float]] = {  # bounds of mean and variance after 100 steps
    "em": (SOLVERS["em"], 0.03, 0.06),
    "euler": (SOLVERS["euler"], 0.08, 0.14),
    "exp1": (SOLVERS["exp1"], 0.02, 0.11),
    "exp2": (SOLVERS["exp2"], 0.02, 0.003),
    "exp3": (SOLVERS["exp3"], 0.02, 0.002),
    "exp-sde": (SOLVERS["exp-sde"], 5e-4, 0.17),
    "exp-sde2": (SOLVERS["exp-sde2"], 5e-4, 0.04),  # of which up to 0.03 are the noise that the last step leaves out
    "ab2": (SOLVERS["ab2"], 0.02, 0.007),
    "ab3": (SOLVERS["ab3"], 0.02, 0.003),
    "heun": (SOLVERS["heun"], 0.02, 0.007),
    "pc-euler": (pc("euler"), 0.03, 0.09),
    "pc-euler-2": (pc("euler", factor=2.0), 0.06, 0.13),
    "pc-euler-ode": (pc("euler", stochastic=False), 0.06, 0.15),
    "pc-reverse": (pc("reverse_diffusion"), 0.03, 0.06),
    "pc-reverse-ode": (pc("reverse_diffusion", stochastic=False), 0.08, 0.14),
    "pc-semianalytic": (pc("semianalytic"), 1e-5, 0.15),
    "pc-semianalytic-ode": (pc("semianalytic", stochastic=False), 1e-3, 0.27),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("name", "grid", "end"),
    [
        ("heat", "log_time", END),
        ("vp", "log_time", END),
        ("fvp-0.9-2-path", "log_time", END),
        ("edm", "log_sigma", 2.5e-5),
        ("flow", "log_sigma", END),  # its noise level grows fast just before T
    ],
)
def test_solvers_return_the_mean_and_spectrum_of_the_data(name, grid, end, scheme):
    dynamics, (make, mean_bound, variance_bound) = under(name), SCHEMES[scheme]
    got = returned_law(dynamics, FIELD, make(), 100, t_end=end, grid=GRIDS[grid])
    mean, variance = distance(got, FIELD.at(dynamics, end))
    assert mean < mean_bound
    assert variance < variance_bound


@pytest.mark.parametrize("name", ["fvp-0.9-2", "cld"])
@pytest.mark.parametrize("scheme", ["em", "exp2", "exp3", "exp-sde2", "pc-reverse"])
def test_augmented_states_return_the_data_too(name, scheme):
    dynamics = build(name)
    got = returned_law(dynamics, FIELD, SCHEMES[scheme][0](), 100, t_end=END, grid=GRIDS["log_time"])
    mean, variance = distance(got, FIELD.at(dynamics, END))
    assert mean < 0.03
    assert variance < 0.06


@pytest.mark.parametrize("name", ["heat", "vp", "fvp-0.9-2"])
def test_the_denoised_end_has_the_law_of_the_denoiser_there(name):
    dynamics = under(name)
    got = returned_law(dynamics, FIELD, SOLVERS["exp2"](), 200, t_end=0.05, grid=GRIDS["log_time"], denoise_last=True)
    mean, variance = distance(got, FIELD.denoised_at(dynamics, 0.05))
    assert mean < 0.015
    assert variance < 0.02


def test_transfer_functions_tell_what_sampling_does():
    # the loop of `sample` itself, with its own noise: 4,000 fields
    dynamics, count, steps = heat(FIELD), 4000, 30
    runs = sample(
        dynamics, FIELD.denoiser(dynamics), (count, 1, LENGTH), solver=pc("euler")(), steps=steps, seeds=range(count)
    )
    law = returned_law(dynamics, FIELD, pc("euler")(), steps)
    error = FIELD.analysis(runs.x[:, 0].double()) - law.mean
    assert (error.mean(0).abs() < 5 * (law.variance / count).sqrt()).all()
    assert ((error.abs().square().mean(0) / law.variance - 1).abs() < 5 * math.sqrt(2 / count)).all()
    assert (
        distance(law, FIELD.at(dynamics, END))[1] > 0.3
    )  # 40 steps are coarse: it is this scheme's law, not the data's


# -- the prior ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_prior_is_off_by_what_theory_says(name):
    shape, constants = PUBLISHED[name]
    dynamics, field = HeatSubVP(shape, **constants), smooth_field(shape)
    got = returned_law(dynamics, field, SOLVERS["exp2"](), 200, t_end=END, grid=GRIDS["log_time"])
    mean, variance = distance(got, law_from_published_prior(dynamics, field, END, stochastic=False))
    assert mean < 1e-2
    assert variance < 2e-2


def test_the_reverse_sde_forgets_the_prior_as_theory_says():
    # a field strong enough to be seen at T
    field = Field(3 * FIELD.mean, 30 * FIELD.spectrum)
    dynamics = HeatSubVP(field.shape, x_norm=LENGTH, energy_norm=1, beta_max=5.0)
    want = law_from_published_prior(dynamics, field, END, stochastic=True)
    errors = []
    for steps in (100, 200):
        got = returned_law(dynamics, field, SOLVERS["em"](), steps, t_end=END, grid=GRIDS["log_time"])
        errors.append(distance(got, want))
    assert max(errors[1]) < 0.6 * max(errors[0]) < 0.03


@pytest.mark.parametrize(("name", "gap"), [("mnist", (0.2, 0.015)), ("uvit-celeba", (1.0, 0.25))])
def test_the_datas_prior_mends_mean_and_spectrum(name, gap):
    shape, constants = PUBLISHED[name]
    dynamics, field = HeatSubVP(shape, **constants), smooth_field(shape)

    def error() -> tuple[float, float]:
        got = returned_law(dynamics, field, SOLVERS["exp2"](), 200, t_end=END, grid=GRIDS["log_time"])
        return distance(got, field.at(dynamics, END))

    published = error()
    with_prior(dynamics, field)
    mended = error()
    assert published[0] > gap[0]
    assert published[1] > gap[1]
    assert mended[0] < 1e-10
    assert mended[1] < published[1] / 5


# -- order, corrections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "predictor", "stochastic", "factor", "counts", "tolerance"),
    [
        *(("heat", "euler", mode, factor, (50, 100), 0.15) for mode in (True, False) for factor in (0.0, 1.0)),
        ("heat", "semianalytic", True, 0.0, (50, 100), 0.15),
        ("heat", "semianalytic", True, 1.0, (50, 100), 0.15),
        ("heat", "semianalytic", False, 1.0, (50, 100), 0.15),
        later("heat", "semianalytic", False, 0.0, (400, 800), 0.25),  # half of the damping is not met by the score
        later("cld", "euler", True, 1.0, (100, 200), 0.25),
        ("cld", "semianalytic", True, 0.0, (100, 200), 0.25),
        later("fvp-0.9-2", "euler", True, 1.0, (100, 200), 0.3),
        ("fvp-0.9-2", "euler", False, 1.0, (100, 200), 0.3),
    ],
)
def test_predictors_have_weak_order_1(name, predictor, stochastic, factor, counts, tolerance):
    field, end = smooth_field((8,) if name == "heat" else (2,)), 0.2 if name == "heat" else 0.3
    dynamics = under(name, field)
    errors = []
    for steps in counts:
        solver = pc(predictor, factor=factor, stochastic=stochastic)()
        got = returned_law(dynamics, field, solver, steps, t_end=end, grid=GRIDS["uniform"])
        errors.append(distance(got, field.at(dynamics, end))[1])
    assert oracles.slope(list(counts), errors) == pytest.approx(1, abs=tolerance)


SNR = 0.16


def per_mode(x: Tensor, field: Field, axes: int) -> Tensor:
    """(1, components on one or two axes, *modes) to (*half spectrum, components)."""
    moved = x[0].movedim(tuple(range(axes)), tuple(range(-axes, 0)))
    return moved.expand(*field.spectrum.shape, *moved.shape[-axes:])


def transfer(dynamics: LinearDynamics, field: Field, t: Tensor, snr: float) -> tuple[Tensor, Tensor]:
    """What a correction at t makes of unit states (*half spectrum, A, A) and of its own noise (*half spectrum, A)."""
    components, origin = dynamics.num_components, (0,) * (1 + field.mean.ndim)
    z = torch.zeros(2 + components, components, 1, *field.shape, dtype=torch.float64)
    noise = torch.zeros(2 + components, 1, 1, *field.shape, dtype=torch.float64)
    noise[(1, 0, *origin)] = 1
    for a in range(components):
        z[(2 + a, a, *origin)] = 1
    corrector = PredictorCorrector(snr=snr).corrector
    moved = corrector(dynamics, Posterior(dynamics, field.denoiser(dynamics), None), z, t, noise)
    unit = field.analysis(z[2:3, :1, 0])[0, 0]  # of an impulse, the same in every mode but for its phase
    response = (field.analysis((moved[1:] - moved[:1])[:, :, 0]) / unit).real
    return response[1:].movedim((0, 1), (-1, -2)), response[0].movedim(0, -1)


@pytest.mark.parametrize("t", [0.9, 0.3])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("heat", shape) for shape in ((32, 32), (5, 6), (512,))),
        *(("vp", shape) for shape in ((1,), (2, 2), (8, 8))),
        ("fvp-0.9-2", (4,)),
        ("cld", (4,)),
    ],
)
def test_corrections_have_the_stationary_law_of_langevins_theory(name, shape, t):
    # z - e G G'P^-1 z + sqrt(2 e) G xi moves u = G'P^-1 z alone: Var u = a / (1 - e a / 2) with a = G'P^-1 G. Without
    # drawing anything: a correction is linear, and the law of theory must be the one it leaves as it is
    field, time = smooth_field(shape), torch.tensor([t], dtype=torch.float64)
    dynamics = heat(field) if name == "heat" else build(name)
    law = dynamics.moments(time)
    g, mean = (per_mode(x, field, 1) for x in (dynamics.diffusion_vector(time), law.mean))
    given = per_mode(law.cov, field, 2)  # S
    cov = given + field.spectrum[..., None, None] * mean.unsqueeze(-1) * mean.unsqueeze(-2)  # P

    def strength(matrix: Tensor) -> Tensor:
        return (g.unsqueeze(-2) @ torch.linalg.solve(matrix, g.unsqueeze(-1)))[..., 0, 0]

    size = 2 * SNR**2 / strength(given)
    share = size * strength(cov)
    extra = (1 / (1 - share / 2) - 1) / strength(cov)
    theory = cov + extra[..., None, None] * g.unsqueeze(-1) * g.unsqueeze(-2)
    keep, kick = transfer(dynamics, field, time, SNR)
    left = keep @ theory @ keep.mT + kick.unsqueeze(-1) * kick.unsqueeze(-2)
    deviation = theory.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((left - theory).abs() / deviation.unsqueeze(-1) / deviation.unsqueeze(-2)).max() < 1e-9
    assert torch.allclose(kick, (2 * size).sqrt().unsqueeze(-1) * g)
    grown = deviation.square() / cov.diagonal(dim1=-2, dim2=-1)
    assert 1 + SNR**2 / 10 < grown.max() <= 1 / (1 - SNR**2) + 1e-12


@pytest.mark.parametrize(
    ("name", "shape", "grid"),
    [
        later("heat", (3, 4), "log_time"),
        ("vp", (4,), "uniform"),
        later("fvp-0.9-2", (4,), "uniform"),
        later("cld", (4,), "uniform"),
    ],
)
def test_a_corrected_run_has_the_spectrum_of_the_data(name, shape, grid):
    field = smooth_field(shape)
    dynamics = copy.deepcopy(build(name)) if name != "heat" else HeatSubVP(shape, x_norm=max(shape))
    got = returned_law(with_prior(dynamics, field), field, PredictorCorrector(), 400, grid=GRIDS[grid])
    mean, variance = distance(got, field.at(dynamics, 1e-3))
    assert mean < 0.01
    assert variance < 0.03


@pytest.mark.parametrize(
    ("predictor", "stochastic"),
    [("euler", True), later("euler", False), later("reverse_diffusion", True), later("semianalytic", True)],
)
def test_corrected_solvers_return_the_data_law(predictor, stochastic):
    # 200 fields of 16 x 16; variances by bands of frequency, where Langevin leaves about 1 + snr^2
    shape, count, steps, end, snr = (16, 16), 200, 80, 0.2, 0.1
    field = smooth_field(shape)
    dynamics = heat(field)
    init = dynamics.prior.sample((count, 1, *shape), torch.randn(count, 1, 1, *shape, dtype=torch.float64))
    solver = PredictorCorrector(predictor, snr=snr, stochastic=stochastic)
    runs = sample(
        dynamics,
        field.denoiser(dynamics),
        (count, 1, *shape),
        solver=solver,
        steps=steps,
        seeds=range(count),
        init=init,
        t_end=end,
    )
    law, f = field.at(dynamics, end), frequencies(shape)
    error = field.analysis(runs.x[:, 0]) - law.mean
    assert (error.mean(0).abs() < 5 * (law.variance / count).sqrt()).all()
    ratio = (error.abs().square() / law.variance).mean(0)
    for low, high in ((0, 2), (2, 5), (5, 12)):
        band = ratio[(f >= low) & (f < high)]
        assert abs(band.mean().item() - 1) < 5 * math.sqrt(1 / (count * band.numel())) + 0.05, (low, band.mean())
