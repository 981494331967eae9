"""From a network's output to x0_hat: every prediction under every dynamics, the training error, and the wrappers."""

import pytest
import torch
from torch import Tensor, nn

from common.denoiser import PREDICTIONS, Clipped, Denoiser
from common.guidance import ClassifierFree
from common.training.weights import LOSS_WEIGHTS
from tests import oracles
from tests.dynamics.members import EVERY, HEATS, build, data_shape

TIMES = torch.tensor([1e-3, 0.05, 0.4, 0.8, 1.0], dtype=torch.float64)
PATHS = ["fvp-0.9-2-path", "fve-0.9-2-path"]


class Recorder(nn.Module):
    """A network that returns what it is told to and keeps what it was given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen = (x, t, labels)
        return self.output


def usable(name: str) -> list[str]:
    """The predictions that turn into x0 under a dynamics."""
    return [p for p in PREDICTIONS if p != "eps" or not build(name).scale_vanishes]


def problem(name: str, dtype: torch.dtype = torch.float64):
    """A dynamics with x0, t, noise and the v that they make."""
    dynamics, shape = build(name), (len(TIMES), 2, *data_shape(name))
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = TIMES.to(dtype)
    return dynamics, x0, t, noise, dynamics.perturb(x0, t, noise)


CASES = [(name, prediction) for name in [*EVERY, *PATHS] for prediction in usable(name)]


@pytest.mark.parametrize(("name", "prediction"), CASES)
def test_the_target_turns_back_into_the_data(name, prediction):
    dynamics, x0, t, noise, v = problem(name)
    rule = PREDICTIONS[prediction]
    target = rule.target(dynamics, dynamics.moments(t), x0, noise)
    x0_hat = Denoiser(Recorder(target), dynamics, prediction)(v, t)
    unit = dynamics.moments(t).sigma if prediction == "eps" else torch.zeros(len(t))  # what rounding is multiplied with
    assert ((x0_hat - x0).abs().flatten(1).amax(1) < 1e-11 * (1 + unit)).all()


@pytest.mark.parametrize(("name", "prediction"), [case for case in CASES if case[0] in ("vp", "fvp-0.9-2", "heat-5x7")])
def test_in_float32_to_its_rounding(name, prediction):
    dynamics, x0, t, noise, v = problem(name, torch.float32)
    target = PREDICTIONS[prediction].target(dynamics, dynamics.moments(t), x0, noise)
    x0_hat = Denoiser(Recorder(target), dynamics, prediction)(v, t)
    assert x0_hat.dtype == torch.float32
    unit = dynamics.moments(t).sigma if prediction == "eps" else torch.zeros(len(t))
    assert ((x0_hat - x0).abs().flatten(1).amax(1) < 1e-5 * (1 + unit)).all()


@pytest.mark.parametrize(("name", "prediction"), CASES)
def test_an_oracle_has_no_error(name, prediction):
    dynamics, x0, t, noise, _ = problem(name)
    target = PREDICTIONS[prediction].target(dynamics, dynamics.moments(t), x0, noise)
    error = Denoiser(Recorder(target), dynamics, prediction).error(x0, t, noise)
    assert error.shape == (len(t),)
    assert error.abs().max() < 1e-20


@pytest.mark.parametrize("name", ["vp", "fve-0.9-2", "cld", "fvp-0.9-5"])
def test_error_of_a_noise_prediction_is_the_mean_squared_error(name):
    dynamics, x0, t, noise, _ = problem(name)
    output = torch.randn_like(x0)
    error = Denoiser(Recorder(output), dynamics, "eps").error(x0, t, noise)
    assert torch.allclose(error, (output - noise).square().mean((1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("name", HEATS)
def test_error_under_heat_dynamics_is_the_weighted_spectral_distance(name):
    # sum over the full spectrum of (b / r) |FFT(output - x0)|^2, orthonormal, by NumPy-like full transforms
    dynamics, x0, t, noise, _ = problem(name)
    output = torch.randn_like(x0)
    shape = data_shape(name)
    axes = tuple(range(2, x0.ndim))
    spectrum = torch.fft.fftn(output - x0, dim=axes, norm="ortho").abs().square()
    frequencies = torch.meshgrid(*(torch.fft.fftfreq(n).double() for n in shape), indexing="ij")
    squared = sum(f.square() for f in frequencies) * HEATS[name][1]["x_norm"] ** 2
    b = 1 / (squared + 0.3) + ((squared + 2) / 1089) ** 0.25
    r = 4096 / 23.27 / (squared + 2) / HEATS[name][1]["energy_norm"]
    want = (b / r * spectrum).flatten(1).mean(1)
    assert torch.allclose(Denoiser(Recorder(output), dynamics, "x0").error(x0, t, noise), want, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["v", "edm"])
@pytest.mark.parametrize("name", HEATS)
def test_scaled_predictions_have_no_metric_of_their_own(name, prediction):
    """Their outputs have unit variance in every mode; b / r belongs to errors of the data."""
    dynamics, x0, t, noise, _ = problem(name)
    rule, law = PREDICTIONS[prediction], dynamics.moments(t)
    output = torch.randn_like(x0)
    denoiser = Denoiser(Recorder(output), dynamics, prediction)
    own = (output - rule.target(dynamics, law, x0, noise)).square().flatten(1).mean(1)
    assert torch.allclose(denoiser.error(x0, t, noise), own, rtol=1e-6)
    # by the weight x0 it is the error of x0_hat that counts, and so its metric
    x0_hat = denoiser(dynamics.perturb(x0, t, noise), t)
    as_data = Denoiser(Recorder(x0_hat), dynamics, "x0").error(x0, t, noise)
    assert torch.allclose(denoiser.error(x0, t, noise, weight=LOSS_WEIGHTS["x0"]), as_data, rtol=1e-5)


@pytest.mark.parametrize("name", ["vp", "ve", "fvp-0.9-2"])
def test_v_prediction_is_the_rotation(name):
    # under VP the network's input is v itself and its target m eps - sc x0 (arXiv 2202.00512, eq. 11)
    dynamics, x0, t, noise, v = problem(name)
    law = dynamics.moments(t)
    scale, std = law.scale.reshape(-1, 1, 1, 1), law.std.reshape(-1, 1, 1, 1)
    network = Recorder(torch.zeros_like(v))
    Denoiser(network, dynamics, "v")(v, t)
    radius = (scale**2 + std**2).sqrt()
    assert torch.allclose(network.seen[0], v / radius, rtol=1e-12)
    target = PREDICTIONS["v"].target(dynamics, law, x0, noise)
    assert torch.allclose(target, (scale * noise - std * x0) / radius, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "ve", "fvp-0.9-2"])
def test_edm_scalings_are_those_of_the_paper(name):
    # c_skip, c_out, c_in of EDM's table 1 in u = v / m, with sigma_data = 0.5
    dynamics, _, t, _, v = problem(name)
    law = dynamics.moments(t)
    sigma, scale = law.sigma.reshape(-1, 1, 1, 1), law.scale.reshape(-1, 1, 1, 1)
    output = torch.randn_like(v)
    network = Recorder(output)
    got = Denoiser(network, dynamics, "edm")(v, t)
    u, data = v / scale, 0.5
    assert torch.allclose(network.seen[0], u / (sigma**2 + data**2).sqrt(), rtol=1e-12)
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
    assert torch.allclose(got, skip * u + out * output, rtol=1e-10, atol=1e-12)


def test_v_and_edm_feed_and_ask_for_unit_variance():
    # data of deviation 0.5 (edm) or 1 (v): input and target have variance 1 at every time
    dynamics = build("fvp-0.9-2")
    count = 20_000
    for prediction, deviation in (("edm", 0.5), ("v", 1.0)):
        for t in (1e-3, 0.3, 1.0):
            times = torch.full((1,), t).double()
            x0, noise = deviation * torch.randn(1, 1, count).double(), torch.randn(1, 1, count).double()
            law, rule = dynamics.moments(times), PREDICTIONS[prediction]
            v = dynamics.perturb(x0, times, noise)
            assert rule.input(dynamics, law, v).var().item() == pytest.approx(1, rel=0.06)
            assert rule.target(dynamics, law, x0, noise).var().item() == pytest.approx(1, rel=0.06)


# -- the network's view ------------------------------------------------------------------------------------------------


def test_network_sees_time_in_0_1_and_labels():
    dynamics = build("fvp-0.9-2")
    network = Recorder(torch.zeros(3, 1, 2, 2))
    v, t, labels = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), torch.tensor([1, 0, 2])
    denoiser = Denoiser(network, dynamics)
    denoiser(v, t, labels)
    x, seen, given = network.seen
    assert torch.equal(x, v)
    assert torch.allclose(seen.double(), t, rtol=1e-7)
    assert given is labels
    denoiser.error(v, t, torch.randn_like(v), labels)
    assert network.seen[2] is labels
    denoiser(v, t)
    assert network.seen[2] is None


def test_low_precision_output_is_brought_back():
    dynamics = build("vp")
    denoiser = Denoiser(Recorder(torch.zeros(2, 1, 2, 2, dtype=torch.bfloat16)), dynamics)
    assert denoiser(torch.randn(2, 1, 2, 2), torch.rand(2)).dtype == torch.float32
    assert denoiser.error(torch.randn(2, 1, 2, 2), torch.rand(2), torch.randn(2, 1, 2, 2)).dtype == torch.float32


def test_gradient_reaches_the_network():
    network = nn.Conv2d(1, 1, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x, t, labels=None):
            return self.inner(x)

    for name in ("fvp-0.9-2", "heat-4x6"):
        denoiser = Denoiser(Net(), build(name))
        network.zero_grad()
        shape = (2, 1, *data_shape(name))
        denoiser.error(torch.randn(shape), torch.rand(2), torch.randn(shape)).mean().backward()
        assert network.weight.grad.abs().sum() > 0


def test_only_the_network_is_in_the_state_dict():
    denoiser = Denoiser(nn.Linear(2, 2), build("fvp-0.9-2"))
    assert list(denoiser.state_dict()) == ["backbone.weight", "backbone.bias"]
    assert sum(p.numel() for p in denoiser.parameters()) == 6


# -- choices and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EVERY, *PATHS])
def test_auto_predicts_noise_where_it_can(name):
    dynamics = build(name)
    end = dynamics.moments(torch.ones(1)).scale
    prediction = Denoiser(nn.Identity(), dynamics).prediction
    suited = {"edm": "edm", "flow": "v"}  # as their papers have it, or nearly
    assert prediction == suited.get(name, "eps" if end.min() >= 1e-3 else "x0")
    if name == "heat-8":
        assert prediction == "x0"
    if name in ("vp", "fvp-0.9-2", "fve-0.9-2", "ve"):
        assert prediction == "eps"


def test_unknown_and_useless_predictions_are_refused():
    with pytest.raises(ValueError, match=r"prediction must be auto or one of eps, x0, v, edm, got 'score'"):
        Denoiser(nn.Identity(), build("vp"), "score")
    with pytest.raises(ValueError, match=r"prediction eps cannot be turned into data under HeatSubVP"):
        Denoiser(nn.Identity(), build("heat-8"), "eps")


def test_clipped():
    v, t = torch.linspace(-3, 3, 8).reshape(2, 1, 4), torch.rand(2)
    given = []

    def inner(v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        given.append(labels)
        return v

    labels = torch.tensor([0, 1])
    assert torch.equal(Clipped(inner)(v, t, labels), v.clamp(-1, 1))
    assert given == [labels]
    assert torch.equal(Clipped(inner, 0.0, 2.0)(v, t), v.clamp(0, 2))
    with pytest.raises(ValueError, match=r"low must be below high, got low=1, high=1"):
        Clipped(inner, 1, 1)


def test_best_network_under_each_prediction_is_the_posterior_mean():
    # squared error is least, over constants per time, where x0_hat is: checked by regression on Gaussian data
    dynamics, count, t = build("fvp-0.9-2"), 200_000, 0.45
    times = torch.tensor([t], dtype=torch.float64)
    x0 = (0.3 + 0.2 * torch.randn(1, 1, count)).double()
    noise = torch.randn(1, 1, count).double()
    law, v = dynamics.moments(times), dynamics.perturb(x0, times, noise)
    want = oracles.GaussianDenoiser(dynamics)(v, times)
    for prediction, rule in PREDICTIONS.items():
        target = rule.target(dynamics, law, x0, noise).flatten()
        features = torch.stack([torch.ones_like(target), v.flatten()], 1)
        fitted = (features @ torch.linalg.lstsq(features, target.unsqueeze(1)).solution).reshape_as(v)
        x0_hat = rule.x0(dynamics, law, v, fitted)
        assert (x0_hat - want).abs().mean() < 5e-3, prediction


# -- guidance ---------------------------------------------------------------------------------------------------------


class ByLabel(nn.Module):
    """x0_hat is the label itself; keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, v: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.batches.append(len(v))
        return labels.reshape(-1, 1, 1, 1).to(v.dtype).expand_as(v) + 0.1 * v + t.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_the_papers_formula(scale):
    """x0 = (1 + w) x0(label) - w x0(null), scale = 1 + w, in one call of twice the batch."""
    v, t, labels = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([2, 7, 4])
    network = ByLabel()
    found = ClassifierFree(network, scale)(v, t, labels)
    assert network.batches == [6]
    with_label, without = ByLabel()(v, t, labels), ByLabel()(v, t, torch.full((3,), -1))
    weight = scale - 1
    assert torch.allclose(found, (1 + weight) * with_label - weight * without, atol=1e-5)


def test_guidance_needs_labels_and_a_scale():
    with pytest.raises(ValueError, match="labels"):
        ClassifierFree(ByLabel(), 2.0)(torch.zeros(1, 1, 2, 2), torch.ones(1))
    for scale in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            ClassifierFree(ByLabel(), scale)
