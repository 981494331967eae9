"""Loss weights, against the formulas of their papers and against x0_hat itself."""

import pytest
import torch

from common.denoiser import PREDICTIONS, Denoiser
from common.training.weights import LOSS_WEIGHTS
from tests.dynamics.members import build, data_shape
from tests.test_denoiser import Recorder

LOG_SIGMA = torch.tensor([-7.0, -1.0, 0.0, 1.0, 5.0], dtype=torch.float64)


def test_formulas():
    sigma = LOG_SIGMA.exp()
    assert LOSS_WEIGHTS["own"] is None
    assert torch.equal(LOSS_WEIGHTS["x0"](LOG_SIGMA), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(LOSS_WEIGHTS["min_snr"](LOG_SIGMA), torch.minimum(sigma**-2, torch.tensor(5.0)), rtol=1e-14)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2  # EDM, table 1
    assert torch.allclose(LOSS_WEIGHTS["edm"](LOG_SIGMA), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["vp", "ve", "fvp-0.9-2", "cld", "heat-5x7"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_weighted_error_is_that_of_x0_hat(name, prediction):
    """The error through the gain of a prediction equals the error of the x0_hat that the denoiser returns."""
    dynamics = build(name)
    if prediction == "eps" and dynamics.scale_vanishes:
        pytest.skip("refused by name")
    x0, noise, output = torch.randn(3, 4, 2, *data_shape(name), dtype=torch.float64)
    t = torch.tensor([0.01, 0.2, 0.6, 0.9], dtype=torch.float64)
    weights = []

    def weight(log_sigma):
        """Another one for every sample and mode."""
        weights.append(0.5 + torch.rand_like(log_sigma))
        return weights[0]

    denoiser = Denoiser(Recorder(output), dynamics, prediction)
    difference = denoiser(dynamics.perturb(x0, t, noise), t) - x0
    error = denoiser.error(x0, t, noise, weight=weight)
    difference = dynamics.basis.scale((dynamics.metric * weights[0]).sqrt(), difference)
    assert torch.allclose(error, difference.square().flatten(1).mean(1), rtol=1e-9, atol=1e-12)


def test_edm_prediction_under_edm_weights_has_its_own_error():
    """EDM's weights are chosen so that the network's own output is learned with weight 1."""
    dynamics = build("ve")
    x0, noise, output = torch.randn(3, 4, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    denoiser = Denoiser(Recorder(output), dynamics, "edm")
    weighted = denoiser.error(x0, t, noise, weight=LOSS_WEIGHTS["edm"])
    assert torch.allclose(denoiser.error(x0, t, noise), weighted, rtol=1e-9)
