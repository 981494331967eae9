"""Loss weights, against the formulas of their papers and against x0_hat itself, computed by NumPy."""

import math

import numpy as np
import pytest
import torch

from common.denoiser import PREDICTIONS, Denoiser, InMetric
from common.training.weights import LOSS_WEIGHTS
from fdp.dynamics import HeatSubVP
from tests import oracles
from tests.dynamics.members import EVERY, HEATS, PIXEL, build, data_shape, sde
from tests.test_denoiser import Recorder

LOG_SIGMA = torch.tensor([-7.0, -1.0, 0.0, 1.0, 5.0], dtype=torch.float64)


def test_formulas():
    sigma = LOG_SIGMA.exp()
    assert LOSS_WEIGHTS["own"] is None
    assert torch.equal(LOSS_WEIGHTS["x0"](LOG_SIGMA), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(LOSS_WEIGHTS["min_snr"](LOG_SIGMA), torch.minimum(sigma**-2, torch.tensor(5.0)), rtol=1e-14)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2  # EDM, table 1
    assert torch.allclose(LOSS_WEIGHTS["edm"](LOG_SIGMA), expected, rtol=1e-14)


# -- by hand, in NumPy -------------------------------------------------------------------------------------------------

GRID, TIMES = (5, 6), (0.05, 0.3, 0.7, 1.0)
SHORT = {"x_norm": 32.0, "energy_norm": 2.0, "beta_min": 0.1, "beta_max": 1.0}  # keeps data at T: eps has an x0_hat
HAND = ["heat", "vp", "ve", "edm", "fvp-0.9-2", "cld"]


def heat_spectra() -> tuple[np.ndarray, np.ndarray]:
    """b and r of FDP on the whole spectrum of the grid."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in GRID), indexing="ij")
    squared = sum(f**2 for f in frequencies) * SHORT["x_norm"] ** 2
    b = 1 / (squared + 0.3) + ((squared + 2) / 33**2) ** 0.25
    return b, 4096 / 23.27 / (squared + 2) / SHORT["energy_norm"]


def level(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
    """m, sc (times, 1, *modes) and the metric, of the whole spectrum."""
    t = np.array(TIMES).reshape(-1, 1, 1, 1)
    if name == "heat":
        b, r = heat_spectra()
        const, end = 0.02, (SHORT["beta_min"] + SHORT["beta_max"]) / 2
        total = const * np.expm1(math.log(end / const + 1) * t)
        m = np.exp(-b * total)
        return m, np.sqrt(r / b * -np.expm1(-2 * b * total)), b / r
    mean, cov = oracles.moments(sde(name), np.array(TIMES))
    sigma = np.array([1 / math.sqrt(m @ np.linalg.solve(s, m)) for m, s in zip(mean, cov, strict=True)])
    m = mean[:, 0].reshape(t.shape)
    return m, m * sigma.reshape(t.shape), 1.0


def to_modes(name: str, x: np.ndarray) -> np.ndarray:
    return np.fft.fftn(x, axes=(2, 3), norm="ortho") if name == "heat" else x


def by_hand(name: str, prediction: str, x0: np.ndarray, noise: np.ndarray, output: np.ndarray):
    """Squared error of x0_hat, mode by mode, sigma and the metric."""
    m, sc, metric = level(name)
    data, eps, out = (to_modes(name, x) for x in (x0, noise, output))
    v, sigma = m * data + sc * eps, sc / m
    x0_hat = {
        "eps": lambda: (v - sc * out) / m,
        "x0": lambda: out,
        "v": lambda: m / (m**2 + sc**2) * v - sc / np.sqrt(m**2 + sc**2) * out,
        "edm": lambda: 0.25 / (sigma**2 + 0.25) * v / m + sigma * 0.5 / np.sqrt(sigma**2 + 0.25) * out,
    }[prediction]()
    return np.abs(x0_hat - data) ** 2, sigma, metric


# one statement each, whatever the network predicts
WEIGHTED = {
    "x0": lambda sigma, metric: metric,
    "min_snr": lambda sigma, metric: np.minimum(sigma**-2, 5),
    "edm": lambda sigma, metric: (sigma**2 + 0.25) / (sigma * 0.5) ** 2,
}


def member(name: str):
    return HeatSubVP(GRID, **SHORT) if name == "heat" else build(name)


def draws(shape: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """x0, noise and what a network might put out, float64."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(3, *shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weight", WEIGHTED)
@pytest.mark.parametrize("name", HAND)
def test_a_weight_is_one_statement_about_x0_hat(name, weight, prediction):
    x0, noise, output = draws((len(TIMES), 2, *GRID))
    squared, sigma, metric = by_hand(name, prediction, x0.numpy(), noise.numpy(), output.numpy())
    want = (WEIGHTED[weight](sigma, metric) * squared).mean((1, 2, 3))
    denoiser = Denoiser(Recorder(output), member(name), prediction)
    error = denoiser.error(x0, torch.tensor(TIMES).double(), noise, weight=LOSS_WEIGHTS[weight])
    assert np.allclose(error.numpy(), want, rtol=1e-6)


def test_every_weight_is_computed_by_hand():
    assert LOSS_WEIGHTS.keys() == {"own", *WEIGHTED}


# -- under every dynamics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EVERY, "fvp-0.9-2-paper", "fvp-0.9-2-path"])
@pytest.mark.parametrize("prediction", ["edm", "x0"])
def test_a_weight_named_like_a_prediction_is_its_own_error(prediction, name):
    """EDM's weight is 1 / c_out^2, so its network learns its output with weight 1; that of x0 is 1 in the metric."""
    dynamics, times = build(name), torch.tensor([1e-3, 0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    x0, noise, output = draws((len(times), 2, *data_shape(name)))
    denoiser = Denoiser(Recorder(output), dynamics, prediction)
    own, weighted = (denoiser.error(x0, times, noise, weight=LOSS_WEIGHTS[weight]) for weight in ("own", prediction))
    assert ((weighted / own - 1).abs() < 1e-6).all()


@pytest.mark.parametrize("mode", [(0, 0), (1, 2), (4, 3)])
def test_edm_weighs_every_mode_of_its_own_output_alike(mode):
    """One mode at a time: b / r beside the weight, as it was, is 0.04, 0.43 and 0.90 for these."""
    dynamics = build("heat-5x7")
    x0, noise, _ = draws((1, 1, 5, 7))
    t = torch.tensor([0.4], dtype=torch.float64)
    target = PREDICTIONS["edm"].target(dynamics, dynamics.moments(t), x0, noise)
    spectrum = torch.zeros(1, 1, 5, 4, dtype=torch.complex128)
    spectrum[..., mode[0], mode[1]] = 1
    wrong = torch.fft.irfft2(spectrum, s=(5, 7))
    denoiser = Denoiser(Recorder(target + wrong), dynamics, "edm")
    error = denoiser.error(x0, t, noise, weight=LOSS_WEIGHTS["edm"])
    assert torch.allclose(error, wrong.square().mean(), rtol=1e-6)


@pytest.mark.parametrize("name", [*PIXEL[:3], "cld", *HEATS])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("beside", [False, True])
def test_a_weight_of_ones_own(name, prediction, beside):
    """A function of log sigma says all of how modes are weighed; ``InMetric`` puts it beside the metric."""
    dynamics = build(name)
    if prediction == "eps" and dynamics.scale_vanishes:
        pytest.skip("refused by name")
    x0, noise, output = draws((4, 2, *data_shape(name)))
    t = torch.tensor([0.01, 0.2, 0.6, 0.9], dtype=torch.float64)

    def weight(log_sigma):
        """Another one for every sample and mode."""
        return 1.5 + torch.sin(7 * log_sigma)

    denoiser = Denoiser(Recorder(output), dynamics, prediction)
    difference = denoiser(dynamics.perturb(x0, t, noise), t) - x0
    error = denoiser.error(x0, t, noise, weight=InMetric(weight) if beside else weight)
    factor = weight(dynamics.moments(t).log_sigma) * (dynamics.metric if beside else 1)
    difference = dynamics.basis.scale(factor.sqrt(), difference)
    assert torch.allclose(error, difference.square().flatten(1).mean(1), rtol=1e-9, atol=1e-12)
