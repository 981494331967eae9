"""Heat dynamics: published numbers, decay of every eigenfunction, the law of the noise, on even and odd grids."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from fdp.dynamics import HeatSubVP
from tests.dynamics.members import HEATS, build

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "heat_subvp.npz")
CASES = {
    "inr_mnist": ((32, 32), {"x_norm": 32, "energy_norm": 1, "beta_max": 5.0}),
    "uvit_celeba": ((64, 64), {"x_norm": 64, "energy_norm": 64, "beta_max": 10.0}),
    "inr_spoken": ((8000,), {"x_norm": 64, "energy_norm": 256, "beta_max": 10.0}),
}


def golden(name: str) -> tuple[HeatSubVP, tuple]:
    """The dynamics of a case and the index of its recorded modes, to follow a batch axis."""
    shape, constants = CASES[name]
    modes = tuple(GOLDEN[f"{name}/modes"].astype(int))
    return HeatSubVP(shape, **constants), (slice(None), *modes)


def relative(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.abs(got.numpy() / want - 1).max())


# -- published numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_spectra_and_law_are_the_published_ones(name):
    dynamics, modes = golden(name)
    t = torch.from_numpy(GOLDEN["t"])
    assert relative(dynamics.b[modes[1:]], GOLDEN[f"{name}/b"]) < 1e-12
    assert relative(dynamics.r[modes[1:]], GOLDEN[f"{name}/r"]) < 1e-12
    assert relative(dynamics.metric[modes[1:]], GOLDEN[f"{name}/psm"] ** 2) < 1e-12
    assert relative(dynamics.beta(t), GOLDEN[f"{name}/beta"]) < 1e-12
    assert relative(dynamics.total(t), GOLDEN[f"{name}/int_beta"]) < 1e-11
    law = dynamics.moments(t)
    assert relative(law.scale[modes], GOLDEN[f"{name}/k"]) < 1e-11
    assert relative(law.std[modes], GOLDEN[f"{name}/sigma"]) < 1e-9  # the published 1 - k^2 cancels at t = 1e-3
    assert relative(law.log_sigma[modes].exp(), GOLDEN[f"{name}/sigma"] / GOLDEN[f"{name}/k"]) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_transition_is_the_published_one(name):
    dynamics, modes = golden(name)
    early, late = (torch.tensor([t], dtype=torch.float64) for t in (0.4, 0.5))
    propagator, noise = dynamics.transition(early, late)
    assert relative(propagator[:, 0, 0][modes][0], GOLDEN[f"{name}/k_0.4_to_0.5"]) < 1e-11
    assert relative(noise[:, 0, 0][modes][0].sqrt(), GOLDEN[f"{name}/sigma_0.4_to_0.5"]) < 1e-10
    back, _ = dynamics.transition(late, early)
    assert relative(back[:, 0, 0][modes][0], GOLDEN[f"{name}/k_0.5_to_0.4"]) < 1e-11


def published_fields(name: str) -> torch.Tensor:
    """A recorded field (2, 1024, 1) as images."""
    return torch.from_numpy(GOLDEN[f"inr_mnist/{name}"]).reshape(2, 1, 32, 32)


def test_score_mean_and_drift_of_published_fields():
    dynamics, _ = golden("inr_mnist")
    t = torch.from_numpy(GOLDEN["t"][[1, 3]])
    z = published_fields("y_corrupted").unsqueeze(1)
    score = dynamics.score(z, t, published_fields("y_reconstructed"))[:, 0]
    times_r = dynamics.basis.scale(dynamics.r.unsqueeze(0), score)  # theirs is r times the gradient
    assert (times_r - published_fields("score")).abs().max() < 1e-8
    mean = dynamics.perturb(published_fields("y0"), t, torch.zeros(2, 1, 32, 32))
    assert (mean - published_fields("mean")).abs().max() < 1e-12
    drift = dynamics.apply_drift(z, t)[:, 0]
    assert (drift - published_fields("sde_drift")).abs().max() < 1e-10


# -- the definition, on any grid ---------------------------------------------------------------------------------------


def spectra(name: str) -> tuple[np.ndarray, np.ndarray]:
    """b and r on the full spectrum, from the definition."""
    shape, constants = HEATS[name]
    axes = np.meshgrid(*(np.fft.fftfreq(n) * constants["x_norm"] for n in shape), indexing="ij")
    squared = sum(f**2 for f in axes)
    b = 1 / (squared + 0.3) + ((squared + 2) / 33**2) ** 0.25
    return b, 4096 / 23.27 / (squared + 2) / constants["energy_norm"]


def total(name: str, t: float) -> float:
    """B(t) by quadrature of beta."""
    beta_max = HEATS[name][1].get("beta_max", 10.0)
    c = math.log((0.1 + (beta_max - 0.1) / 2) / 0.02 + 1)
    return quad(lambda s: 0.02 * c * math.exp(c * s), 0, t, epsrel=1e-13)[0]


@pytest.mark.parametrize("name", HEATS)
def test_spectra_follow_the_definition(name):
    dynamics = build(name)
    b, r = spectra(name)
    half = dynamics.basis.modes[-1]
    assert np.allclose(dynamics.b, b[..., :half], rtol=1e-12)
    assert np.allclose(dynamics.r, r[..., :half], rtol=1e-12)
    assert np.allclose(dynamics.metric, b[..., :half] / r[..., :half], rtol=1e-12)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert dynamics.total(t).tolist() == pytest.approx([total(name, s) for s in t.tolist()], rel=1e-10)


@pytest.mark.parametrize("shape", [(6, 9), (5, 8), (4, 7), (6, 7)])
def test_damping_does_not_know_the_axes_apart(shape):
    # on a non-square grid too: a wave of k cycles a sample is damped alike along either axis
    upright, lying = (HeatSubVP(s, x_norm=16, energy_norm=1.0) for s in (shape, shape[::-1]))
    t = torch.tensor([0.7], dtype=torch.float64)
    x0, noise = torch.randn(1, 2, *shape, dtype=torch.float64), torch.randn(1, 2, *shape, dtype=torch.float64)
    turned = lying.perturb(x0.mT.contiguous(), t, noise.mT.contiguous()).mT
    assert torch.allclose(upright.perturb(x0, t, noise), turned, rtol=1e-12, atol=1e-13)
    square = HeatSubVP((shape[0], shape[0]), x_norm=16, energy_norm=1.0)
    assert torch.allclose(upright.b[:, 0], square.b[:, 0], rtol=1e-14)


def eigenfunctions(shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """Frequencies and their cosine and sine waves on the grid, (2 N, 1, *shape)."""
    frequencies = list(product(*(range(n) for n in shape)))
    grids = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    phases = np.stack([2 * math.pi * sum(k * g for k, g in zip(f, grids, strict=True)) for f in frequencies])
    waves = np.concatenate([np.cos(phases), np.sin(phases)])
    return frequencies * 2, torch.from_numpy(waves).unsqueeze(1)


@pytest.mark.parametrize("t", [0.2, 1.0])
@pytest.mark.parametrize("name", HEATS)
def test_every_eigenfunction_decays_at_its_own_rate(name, t):
    dynamics = build(name)
    frequencies, waves = eigenfunctions(HEATS[name][0])
    b, _ = spectra(name)
    rates = torch.from_numpy(np.array([b[f] for f in frequencies])).reshape(-1, *(1,) * (waves.ndim - 1))
    times = torch.full((len(waves),), t, dtype=torch.float64)

    decayed = dynamics.perturb(waves, times, torch.zeros_like(waves))
    assert (decayed - (-rates * total(name, t)).exp() * waves).abs().max() < 1e-12

    propagator, _ = dynamics.transition(times / 3, times)
    moved = dynamics.basis.mix(propagator, waves.unsqueeze(1)).squeeze(1)
    between = total(name, t) - total(name, t / 3)
    assert (moved - (-rates * between).exp() * waves).abs().max() < 1e-12

    c = math.log(dynamics.total(torch.ones(1, dtype=torch.float64)).item() / 0.02 + 1)
    beta = 0.02 * c * math.exp(c * t)
    assert torch.allclose(dynamics.apply_drift(waves.unsqueeze(1), times).squeeze(1), -beta * rates * waves, atol=1e-10)


def pixel_covariance(name: str, per_mode: np.ndarray) -> np.ndarray:
    """Covariance between pixels of a field whose orthonormal Fourier coefficients have these variances."""
    shape = HEATS[name][0]
    size = math.prod(shape)
    axes = tuple(range(1, len(shape) + 1))
    identity = np.fft.fftn(np.eye(size).reshape(size, *shape), axes=axes)
    return np.fft.ifftn(per_mode * identity, axes=axes).real.reshape(size, size)


@pytest.mark.parametrize("name", HEATS)
def test_noise_has_the_covariance_of_its_spectrum(name):
    dynamics, shape, count, t = build(name), HEATS[name][0], 40_000, 0.6
    noise = torch.randn(count, 1, *shape)
    draws = dynamics.perturb(torch.zeros_like(noise), torch.full((count,), t), noise).flatten(1).double().numpy()
    b, r = spectra(name)
    want = pixel_covariance(name, r / b * -np.expm1(-2 * b * total(name, t)))
    got = draws.T @ draws / count
    error = np.sqrt((np.outer(np.diag(want), np.diag(want)) + want**2) / count)  # of each entry of a sample covariance
    assert (np.abs(got - want) < 5 * error).all()


@pytest.mark.parametrize("name", HEATS)
def test_kicks_have_the_covariance_of_r(name):
    dynamics, shape, count = build(name), HEATS[name][0], 40_000
    t = torch.full((count,), 0.5)
    kicks = dynamics.apply_diffusion(torch.randn(count, 1, *shape), t).flatten(1).double().numpy()
    want = pixel_covariance(name, 2 * dynamics.beta(torch.tensor([0.5], dtype=torch.float64)).item() * spectra(name)[1])
    error = np.sqrt((np.outer(np.diag(want), np.diag(want)) + want**2) / count)
    assert (np.abs(kicks.T @ kicks / count - want) < 5 * error).all()


@pytest.mark.parametrize("name", HEATS)
def test_everything_stays_real_and_in_its_own_dtype(name):
    dynamics, shape = build(name), HEATS[name][0]
    for dtype in (torch.float32, torch.float64):
        x0, noise = torch.randn(3, 2, *shape, dtype=dtype), torch.randn(3, 2, *shape, dtype=dtype)
        t = torch.tensor([1e-3, 0.4, 1.0], dtype=dtype)
        z = dynamics.sample_state(x0, t, noise.unsqueeze(1))
        for got, axes in {
            dynamics.perturb(x0, t, noise): 2,
            z: 3,
            dynamics.statistic(z, t): 2,
            dynamics.score(z, t, x0): 3,
            dynamics.apply_drift(z, t): 3,
            dynamics.apply_diffusion(noise, t): 3,
            dynamics.reverse_drift(z, t, x0, stochastic=True): 3,
            dynamics.prior.sample((3, 2, *shape), noise.unsqueeze(1)): 3,
        }.items():
            assert got.dtype == dtype
            assert got.shape == (3, *(1,) * (axes - 2), 2, *shape)
            assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", HEATS)
def test_the_grid_variable_is_that_of_the_mode_that_keeps_most_data(name):
    dynamics = build(name)
    t = torch.tensor([0.1, 0.6], dtype=torch.float64)
    law = dynamics.moments(t)
    mode = law.scale[0].argmax()
    assert torch.equal(dynamics.log_sigma(t), law.log_sigma.flatten(1)[:, mode])


@pytest.mark.parametrize(
    ("shape", "constants", "message"),
    [
        ((4, 4, 4), {}, r"shape must be one or two sizes of at least 2, got \(4, 4, 4\)"),
        ((), {}, r"shape must be one or two sizes"),
        ((1, 8), {}, r"shape must be one or two sizes of at least 2, got \(1, 8\)"),
        ((8,), {"beta_min": 6.0, "beta_max": 5.0}, r"0 <= beta_min <= beta_max; got beta_min=6"),
        ((8,), {"beta_min": -1.0}, r"0 <= beta_min <= beta_max; got beta_min=-1"),
        ((8,), {"beta_min": 0.0, "beta_max": 0.0}, r"beta_max must be above 0"),
        ((8,), {"const": 0.0}, r"const must be above 0 and finite, got 0"),
        ((8,), {"x_norm": 0.0}, r"x_norm must be above 0 and finite, got 0"),
        ((8,), {"energy_norm": -1.0}, r"energy_norm must be above 0 and finite, got -1"),
        ((8,), {"energy_norm": math.nan}, r"energy_norm must be above 0 and finite, got nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(shape, constants, message):
    with pytest.raises(ValueError, match=message):
        HeatSubVP(shape, **{"x_norm": 8.0, "energy_norm": 1.0, **constants})


def test_a_mode_that_is_gone_has_a_law_all_the_same():
    """m down to exp(-690); the deviation is the stationary one, sqrt(r / b)."""
    dynamics = HeatSubVP((8, 8), beta_max=389.0, x_norm=8.0, energy_norm=1.0)
    law = dynamics.moments(torch.ones(1, dtype=torch.float64))
    assert torch.allclose(law.std[0], (dynamics.r / dynamics.b).sqrt(), rtol=1e-12)
    start = dynamics.prior.sample((2, 1, 8, 8), torch.randn(2, 1, 1, 8, 8))
    assert start.isfinite().all()
