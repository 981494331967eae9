"""Figures of samples themselves: closed forms, faults that were overlooked, and what is undefined."""

import math
import warnings
from pathlib import Path

import pytest
import scipy.stats
import torch
from scipy.special import ndtr
from torch import Tensor

from benchmarks.quality_functions import damped_sines
from common.data import SOURCES, DataOptions
from common.data.source import DataSet, Split
from common.metrics import METRICS, Evidence
from common.metrics.drawn import Drawn
from common.metrics.of_values import OfValues, Trial
from common.metrics.two_sample import told_apart, wilson
from common.metrics.values import correlations, lagged, lags, octave_edges, octaves, part_means, shape_of

OF_VALUES = [name for name, kind in METRICS.items() if issubclass(kind, OfValues)]


def drawn_by(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def evidence(samples: Tensor, train: Tensor, held_out: Tensor) -> Evidence:
    """Samples (N, C, *S) and real ones, all on the scale [-1, 1]."""
    parts = (Split(x, torch.zeros(len(x), dtype=torch.int64)) for x in (train, held_out))
    return Evidence(Drawn(lambda: iter(samples.split(100)), None, "x"), DataSet(*parts, value_range=(-1.0, 1.0)))


def figures(name: str, *sets: Tensor) -> dict[str, float]:
    return METRICS[name]()(evidence(*sets))


# -- numbers of samples -----------------------------------------------------------------------------------------------


def test_a_wave_is_in_its_octave():
    u = (torch.arange(64) + 0.5) / 64
    assert octave_edges((64,)) == [0.5, 1, 2, 4, 8, 16]
    for cycles, place in ((0.5, 0), (1, 1), (3.5, 2), (4, 3), (31.5, 5)):
        energy = octaves((7 + 3 * torch.cos(2 * torch.pi * cycles * u)).reshape(1, 1, -1))[0, 0]
        assert energy.tolist() == pytest.approx([4.5 * (i == place) for i in range(6)], abs=1e-5)
    # a sine has a kink where it is continued evenly: nine tenths are where they should be
    energy = octaves(torch.sin(2 * torch.pi * 6 * u).reshape(1, 1, -1))[0, 0]
    assert float(energy[3]) == pytest.approx(0.45, rel=0.02)
    # the diagonal of a plane: 3 cycles along each axis are 3 sqrt(2) a side
    wave = torch.cos(2 * torch.pi * 3 * u)
    energy = octaves((wave[:, None] * wave).reshape(1, 1, 64, 64))[0, 0]
    assert energy.tolist() == pytest.approx([0.25 * (i == 3) for i in range(7)], abs=1e-6)


@pytest.mark.parametrize("grid", [(64,), (9, 5), (1, 16)])
def test_energies_are_the_variance_and_white_noise_has_them_by_number(grid):
    x = drawn_by(0, 2000, 2, *grid)
    energy = octaves(x)
    assert energy.shape == (2000, 2, len(octave_edges(grid)))
    assert torch.allclose(energy.sum(2), x.double().flatten(2).var(2, correction=0))
    if len(grid) == 1:
        shares = torch.tensor([1, 2, 4, 8, 16, 32]) / 64  # modes 1; 2, 3; 4 .. 7; ..
        assert torch.allclose(energy.mean((0, 1)).float(), shares, rtol=0.07)


def test_lags_of_an_autoregression():
    x, rho = [drawn_by(0, 4000)], 0.8
    for noise in drawn_by(1, 63, 4000):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise)
    found = correlations(lagged(torch.stack(x, 1).unsqueeze(1)).mean((0, 1)))
    assert lags((64,)) == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (0, 32)]
    assert found.tolist() == pytest.approx([rho**lag for _, lag in lags((64,))], abs=0.02)
    assert lags((4, 2)) == [(0, 1), (0, 2), (1, 1)]


def test_moments_and_parts():
    x = drawn_by(0, 3, 500).exp()
    found = shape_of(x)
    assert found[:, 2].tolist() == pytest.approx(scipy.stats.skew(x.double(), axis=1).tolist())
    assert found[:, 3].tolist() == pytest.approx(scipy.stats.kurtosis(x.double(), axis=1).tolist())
    assert shape_of(torch.full((5,), 0.3)).tolist() == pytest.approx([0.3, 0, 0, 0])
    assert part_means(torch.arange(16.0).reshape(1, 1, 16))[0, 0].tolist() == [0.5 + 2 * i for i in range(8)]
    assert part_means(torch.arange(64.0).reshape(1, 1, 8, 8))[0, 0, :5].tolist() == [4.5, 6.5, 8.5, 10.5, 20.5]
    assert part_means(torch.zeros(2, 3, 1, 5)).shape == (2, 3, 4)


# -- figures ----------------------------------------------------------------------------------------------------------


def test_shifted_and_scaled_gaussians():
    """Of N(m, s) and N(0, 1) in d dimensions: W2 of values is the root of m^2 + (s - 1)^2, sliced W2 |m|^2 / d + ..."""
    train, held_out = drawn_by(0, 4000, 1, 32), drawn_by(1, 1000, 1, 32)
    x = 0.5 + 1.3 * drawn_by(2, 1000, 1, 32)
    found = figures("moments", x, train, held_out)
    assert found["moments"] == pytest.approx(math.hypot(0.5, 0.3), abs=0.02)
    assert found["range"] == pytest.approx(0.5 + 0.3 * 3.09, abs=0.15)
    assert [found["moments_mean"], found["moments_deviation"]] == pytest.approx([0.5, 1.3], abs=0.02)
    assert [found["moments_skewness"], found["moments_kurtosis"]] == pytest.approx([0, 0], abs=0.1)
    assert max(found["lags"], found["moments_real"], found["lags_real"]) < 0.02
    a = torch.linspace(-1, 1, 32)
    found = figures("sw_values", drawn_by(3, 1000, 1, 32) + a, train, held_out)
    assert found["sw_values"] == pytest.approx(float(a.square().mean()), rel=0.15)  # over 256 directions
    assert found["sw_values"] > found["sw_values_low"] > 10 * found["sw_values_real"]


def test_a_louder_octave_and_a_louder_part():
    u = (torch.arange(64) + 0.5) / 64
    train, held_out, x = drawn_by(0, 4000, 1, 64), drawn_by(1, 1000, 1, 64), drawn_by(2, 1000, 1, 64)
    waves = torch.stack([torch.cos(2 * torch.pi * cycles * u) for cycles in (2, 2.5, 3, 3.5)]) * math.sqrt(2 / 64)
    found = figures("spectrum", x + (x @ waves.T) @ waves, train, held_out)  # twice the amplitude from 2 to 4 cycles
    assert found["spectrum"] == pytest.approx(2, abs=0.15)
    assert found["spectrum_from_2"] == pytest.approx(4, rel=0.1)
    assert [found[f"spectrum_from_{edge}"] for edge in (1, 4, 8, 16)] == pytest.approx([1] * 4, rel=0.1)
    found = figures("spectrum", x * torch.where(u > 7 / 8, 0.25, 1), train, held_out)
    assert found["envelope"] == pytest.approx(4, abs=0.1)
    assert [found[f"envelope_part_{i}"] for i in range(1, 9)] == pytest.approx([1] * 7 + [1 / 16], rel=0.1)


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_a_classifier_is_as_good_as_the_best_one(distance):
    """Of two normal laws at a distance d the best classifier puts Phi(d / 2) on the right side."""
    one, other = drawn_by(0, 2000, 3).double(), drawn_by(1, 2000, 3).double()
    other[:, 0] += distance
    found = told_apart(one, other)
    assert found == pytest.approx(ndtr(distance / 2), abs=0.03)
    low, high = wilson(found, 4000)
    exact = scipy.stats.binomtest(round(found * 4000), 4000).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_chance_is_within_the_interval():
    """Of 50 trials 2.5 may be outside, with a deviation of 1.5."""
    outside = 0
    for seed in range(50):
        x = drawn_by(seed, 160, 4).double()
        low, high = wilson(told_apart(x[:80], x[80:]), 80)
        outside += not low <= 0.5 <= high
    assert outside <= 6


def test_equal_numbers_of_different_samples():
    x = torch.arange(100.0).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    trial = Trial.of(evidence(x, x[:50], 50 + x[:10]))
    drawn, fresh, real = ({*some[:, 0, 0, 0].tolist()} for some in (trial.drawn, trial.fresh, trial.real))
    assert (len(drawn), len(fresh), len(real)) == (30, 30, 30)
    assert fresh >= set(range(50, 60))  # what is held out comes first
    assert fresh | real == set(range(60))
    assert {number % 2 for number in drawn} == {0, 1}  # classes take turns: not one in so many
    metric = METRICS["c2st"]()
    given = evidence(x, x[:50], 50 + x[:10])
    assert "; 30 other real samples, as many as are looked at, " in metric.lines(metric(given), given)[0]


# -- faults that were overlooked --------------------------------------------------------------------------------------


def functions() -> tuple[Tensor, Tensor]:
    """Damped sines on the scale [-1, 1]: to learn from, and held out."""
    x = torch.from_numpy((damped_sines(1800, 0)[0] - 20) / 5).float().unsqueeze(1)
    return x[:1500], x[1500:]


def undamped(count: int) -> Tensor:
    """Sines of the same frequencies and a constant amplitude."""
    rng = torch.Generator().manual_seed(0)
    first, second, third = torch.rand((3, count, 1), generator=rng)
    frequency = torch.where(torch.arange(count).unsqueeze(1) % 2 == 0, 3 + 2 * first, 9 + 4 * first)
    u = torch.linspace(0, 1, 200)
    return ((0.24 + 0.06 * second) * torch.sin(2 * torch.pi * (frequency * u + third))).unsqueeze(1)


def digits() -> tuple[Tensor, Tensor]:
    data = SOURCES["digits"]().load(DataOptions(Path("data")))
    return data.to_unit_range(data.train.images), data.to_unit_range(data.held_out.images)


def blobs(real: Tensor) -> Tensor:
    """Brown fields, amplitude one over the frequency squared, with the mean and deviation of real images."""
    frequency = torch.fft.fftfreq(8) * 8
    distance = (frequency[:, None] ** 2 + frequency**2).where(torch.ones(8, 8).cumsum(0).cumsum(1) > 1, 1)
    field = torch.fft.ifft2(torch.fft.fft2(drawn_by(0, *real.shape)) / distance).real
    return ((field - field.mean()) / field.std() * real.std() + real.mean()).clamp(-1, 1)


REAL = {"functions": functions, "digits": digits}
# data, what is wrong with samples made of real ones, and the figures that must see it
FAULTS = {
    "sines without damping": ("functions", lambda x: undamped(len(x)), {"c2st", "envelope", "spectrum", "moments"}),
    "near-silence": (
        "functions",
        lambda x: 0.05 * x,
        {"c2st", "envelope", "spectrum", "moments", "sw_values", "range"},
    ),
    "one function": ("functions", lambda x: x[:1].repeat(len(x), 1, 1), {"c2st", "sw_values", "lags", "spectrum"}),
    "noisy functions": ("functions", lambda x: x + 0.03 * drawn_by(1, *x.shape), {"c2st", "spectrum"}),
    "brown blobs": ("digits", blobs, {"c2st", "envelope", "spectrum", "moments", "lags", "sw_values"}),
    "near-grey": ("digits", lambda x: 0.05 * x, {"c2st", "envelope", "spectrum", "moments", "range", "sw_values"}),
    "one digit": ("digits", lambda x: x[:1].repeat(len(x), 1, 1, 1), {"c2st", "sw_values", "lags", "spectrum"}),
    "noisy digits": ("digits", lambda x: x + 0.03 * drawn_by(1, *x.shape), {"c2st"}),
}


def excess(found: dict[str, float], name: str) -> float:
    """By how many half intervals of their difference a figure is above that of real samples."""
    reaches = ((found[f"{one}_high"] - found[f"{one}_low"]) / 2 for one in (name, f"{name}_real"))
    return (found[name] - found[f"{name}_real"]) / max(math.hypot(*reaches), 1e-9)


def all_figures(*sets: Tensor) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {key: figure for name in OF_VALUES for key, figure in figures(name, *sets).items()}


NAMES = [figure for name in OF_VALUES for figure in METRICS[name].names]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault):
    data, spoil, seen_by = FAULTS[fault]
    train, held_out = REAL[data]()
    found = all_figures(spoil(train[:300]), train[300:], held_out)
    assert {name for name in NAMES if excess(found, name) > 1} >= seen_by
    assert found["c2st_low"] > 0.9 > 0.6 > found["c2st_real"]


@pytest.mark.parametrize("data", REAL)
def test_real_samples_pass(data):
    train, held_out = REAL[data]()
    half = len(held_out) // 2
    found = all_figures(held_out[:half], train, held_out[half:])
    assert max(excess(found, name) for name in NAMES) < 2
    assert found["c2st_low"] < 0.5 < found["c2st_high"]
    assert found == all_figures(held_out[:half], train, held_out[half:])


# -- what is undefined ------------------------------------------------------------------------------------------------

X = drawn_by(5, 60, 1, 6, 6).clamp(-1, 1)
FLAT = torch.zeros_like(X)
UNDEFINED = {
    "few samples": ((X[:7], X, X[:20]), "undefined: it needs 8 samples, and 16 real ones"),
    "few real samples": ((X, X[:8], X[:7]), "undefined: it needs 8 samples, and 16 real ones"),
    "constant data": ((X, FLAT, FLAT[:20]), "undefined: all real samples are the same"),
    "one image": ((X, X[:1].expand(60, -1, -1, -1), X[:1]), "undefined: all real samples are the same"),
    "single points": ((X[..., :1, :1], X[..., :1, :1], X[:20, :, :1, :1]), "undefined: a sample has a single point"),
}
DEFINED = {
    "nothing held out": (X, X, X[:0]),
    "eight": (X[:8], X[:8], X[:8]),
    "constant samples": (FLAT, X, X[:20]),
    "huge samples": (1e30 * X, X, X[:20]),
    "real samples that are constant each": (X, FLAT + X[:, :, :1, :1], X[:20]),
    "constant but for a few": (X, torch.cat([FLAT, X[:10]]), FLAT[:20]),
    "two points": (X[..., :1, :2], X[..., :1, :2], X[:20, :, :1, :2]),
    "short lines": (X[..., 0, :3], X[..., 0, :3], X[:20, :, 0, :3]),
}


@pytest.mark.parametrize("case", UNDEFINED)
@pytest.mark.filterwarnings("error")
def test_undefined_figures_say_why(case):
    sets, said = UNDEFINED[case]
    given = evidence(*sets)
    for metric in (METRICS[name]() for name in OF_VALUES):
        found = metric(given)
        assert tuple(found) == metric.names
        assert all(math.isnan(figure) for figure in found.values())
        assert metric.lines(found, given) == [f"{', '.join(metric.names)} {said}"]


@pytest.mark.parametrize("case", DEFINED)
@pytest.mark.filterwarnings("error")
def test_odd_samples_have_figures(case):
    given = evidence(*DEFINED[case])
    for metric in (METRICS[name]() for name in OF_VALUES):
        found = metric(given)
        assert not [name for name, figure in found.items() if not math.isfinite(figure)]
        assert [line.split()[0] for line in metric.lines(found, given) if line[0] != " "] == [*metric.names]
