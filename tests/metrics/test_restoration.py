"""Figures about completions: each against its formula, or a case that is known."""

import math

import pytest
import torch
from scipy.stats import t as student

from common.metrics.calibration import band, covered, exact_coverage
from common.metrics.lpips import HEADS, Lpips
from common.metrics.restoration import (
    RESTORATION,
    Completed,
    Coverage,
    Perceptual,
    RelativeError,
    SignalToNoise,
    Similarity,
    restoration_figures,
    told,
)

PLAIN = [SignalToNoise(), Similarity(), RelativeError(), Coverage()]


def completed(count=5, draws=4, shape=(1, 16, 12), seed=0, span=1.0) -> list[Completed]:
    """Inputs of which the left half is known, and completions that differ from the truth by noise."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, *shape, generator=generator) * span
    drawn = truth.unsqueeze(1) + 0.1 * span * torch.randn(count, draws, *shape, generator=generator)
    unknown = torch.zeros(shape, dtype=torch.bool)
    unknown[..., shape[-1] // 2 :] = True
    return [Completed(x, y, unknown, span) for x, y in zip(truth, drawn, strict=True)]


@pytest.mark.parametrize("span", [1.0, 30.0])
@pytest.mark.parametrize("shape", [(1, 16, 12), (3, 8, 8), (2, 40)])
def test_errors_are_by_the_formula(shape, span):
    inputs = completed(shape=shape, span=span)
    found = restoration_figures(inputs, PLAIN)
    for part, which in (("", torch.ones(shape, dtype=torch.bool)), ("_unknown", inputs[0].unknown)):
        of_mean, of_one, mean, one = [], [], [], []
        for truth, drawn, _, _ in inputs:
            x, y = truth.double()[which], drawn.double()[:, which]
            errors = [((y.mean(0) - x) ** 2).mean(), *((draw - x).square().mean() for draw in y)]
            decibels = [10 * math.log10(span**2 / error) for error in errors]
            of_mean.append(decibels[0])
            of_one.append(sum(decibels[1:]) / len(y))
            relative = [math.sqrt(error / x.square().mean()) for error in errors]
            mean.append(relative[0])
            one.append(sum(relative[1:]) / len(y))
        for name, rows in (("psnr", of_mean), ("psnr_single", of_one), ("l2", mean), ("l2_single", one)):
            values = torch.tensor(rows, dtype=torch.float64)
            assert found[f"{name}{part}"] == pytest.approx(float(values.mean()), rel=1e-6)
            reach = student.ppf(0.975, 4) * float(values.std()) / math.sqrt(5)
            width = found[f"{name}{part}_high"] - found[f"{name}{part}_low"]
            assert width == pytest.approx(2 * reach, rel=1e-6)
    assert ("ssim" in found) == (len(shape) == 3)


def test_similarity_is_by_the_formula():
    """In the middle of an image, where no window meets an edge, and on the whole of equal ones."""
    (one,) = completed(count=1, draws=1, shape=(1, 11, 11))
    x, y = one.truth[0].double(), one.drawn[0, 0].double()
    line = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2

    def mean(values):
        return float((window * values).sum())

    variances = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    numerator = (2 * mean(x) * mean(y) + 1e-4) * (2 * (mean(x * y) - mean(x) * mean(y)) + 9e-4)
    expected = numerator / ((mean(x) ** 2 + mean(y) ** 2 + 1e-4) * (sum(variances) + 9e-4))
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, whole = structural_similarity_index_measure(y[None, None], x[None, None], data_range=1.0, return_full_image=True)
    assert float(whole[0, 0, 5, 5]) == pytest.approx(expected, rel=1e-9)
    found = restoration_figures([one], [Similarity()])
    assert set(found) == {"ssim", "ssim_single"}  # of one input there is no interval
    assert found["ssim"] == pytest.approx(float(whole.mean()), abs=1e-6)
    same = one._replace(drawn=one.truth.unsqueeze(0))
    assert restoration_figures([same], [Similarity()])["ssim"] == pytest.approx(1)
    assert restoration_figures(completed(shape=(1, 5, 8)), [Similarity()]) == {}


def test_an_interval_ends_where_a_figure_must():
    good, bad = completed(count=2)
    bad = bad._replace(drawn=3 - bad.drawn)
    found = restoration_figures([good, bad], PLAIN)
    assert found["l2_low"] == 0
    assert found["coverage_low"] == 0
    assert found["psnr_low"] < 0
    assert found["l2"] < found["l2_high"]
    assert (found["ssim_low"], found["ssim_high"]) == (-1, 1)


def test_an_exact_completion_has_no_finite_ratio_and_no_interval():
    inputs = [one._replace(drawn=one.truth.expand_as(one.drawn).clone()) for one in completed(count=2)]
    found = restoration_figures(inputs, PLAIN)
    assert found["psnr"] == math.inf
    assert "psnr_low" not in found
    assert (found["l2"], found["coverage"]) == (0, 1)


# -- calibration -------------------------------------------------------------------------------------------------------


def test_exact_coverage_has_its_closed_forms():
    assert exact_coverage(1) == 0
    assert exact_coverage(2) == pytest.approx(2 / math.pi * math.atan(0.9 / math.sqrt(3)), abs=1e-12)
    for draws in (21, 41, 101):  # whose quantiles are draws, so that no law matters
        assert exact_coverage(draws) == pytest.approx(0.9 * (draws - 1) / (draws + 1), abs=1e-12)


@pytest.mark.parametrize("draws", [3, 16])
def test_exact_draws_are_covered_as_often_as_that(draws):
    generator = torch.Generator().manual_seed(draws)
    truth = torch.randn(400_000, generator=generator, dtype=torch.float64)
    drawn = torch.randn(draws, 400_000, generator=generator, dtype=torch.float64)
    share = float(covered(truth, drawn).double().mean())
    assert share == pytest.approx(exact_coverage(draws), abs=3 * 0.5 / math.sqrt(400_000))
    assert float(covered(truth, 0.5 * drawn).double().mean()) < share - 0.15  # too certain


@pytest.mark.parametrize("draws", [1, 2, 5, 21])
def test_a_band_is_between_the_quantiles(draws):
    drawn = torch.rand(draws, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.quantile(drawn, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    torch.testing.assert_close(torch.stack(band(drawn)), expected)


def test_coverage_counts_values_and_the_band_is_half_a_level_wider_for_images():
    drawn = torch.linspace(0, 1, 21).reshape(21, 1, 1).expand(21, 1, 4).clone()  # quantiles 0.05 and 0.95
    truth = torch.tensor([[0.049, 0.0501, 0.5, 0.951]])
    function = Completed(truth, drawn)
    image = Completed(truth.unsqueeze(1), drawn.unsqueeze(2))
    assert Coverage()(function)["coverage"] == 0.5
    assert Coverage()(image)["coverage"] == 1
    unknown = torch.tensor([[True, True, False, False]])
    assert Coverage()(function._replace(unknown=unknown))["coverage_unknown"] == 0.5
    assert "coverage_unknown" not in Coverage()(function._replace(unknown=~torch.zeros_like(unknown)))


def test_lines_say_every_figure():
    found = restoration_figures(completed(), PLAIN)
    lines = told(found, PLAIN, 4)
    rows = {line.split("  ")[0]: line for line in lines if not line.startswith(" ")}
    assert list(rows) == ["psnr [dB]", "ssim (1: equal)", "l2, relative", "coverage"]
    for name, title in (("psnr", "psnr [dB]"), ("ssim", "ssim (1: equal)"), ("l2", "l2, relative")):
        low, high = (format(found[f"{name}{end}"], ".4g") for end in ("_low", "_high"))
        assert f"{found[name]:.4g} ({low} to {high})" in rows[title]
        assert rows[title].split()[-1] == format(found[f"{name}_single"], ".4g")
    assert len([line for line in lines if line.startswith("  of unknown values")]) == 3
    assert f"{exact_coverage(4):.3f}" in lines[-1]
    single = [one._replace(drawn=one.drawn[:1]) for one in completed()]
    alone = told(restoration_figures(single, PLAIN[:3]), PLAIN, 1)
    assert "the only completion" in alone[0]
    assert not any("single" in line for line in alone)


# -- LPIPS -------------------------------------------------------------------------------------------------------------


def test_lpips_is_that_of_torchmetrics(tmp_path):
    """With the published heads and a backbone by lot: its own weights are fetched by nobody here."""
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models import alexnet

    from common.files import load_state

    assert Lpips.found_in(tmp_path) is None
    torch.manual_seed(0)
    backbone = alexnet(weights=None).state_dict()
    mine = Lpips(backbone, load_state(HEADS.path(tmp_path)))
    reference = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    layers = [layer for part in range(1, 6) for layer in getattr(reference.net, f"slice{part}")]
    for layer, source in zip(layers, mine.features, strict=False):
        layer.load_state_dict(source.state_dict())
    one, other = torch.rand(2, 3, 3, 40, 33, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = reference(one, other).flatten()
    assert float(expected.min()) > 0
    torch.testing.assert_close(mine(one, other), expected, rtol=1e-5, atol=1e-8)
    grey = mine(one[:, :1], other[:, :1])
    torch.testing.assert_close(grey, mine(one[:, :1].expand(-1, 3, -1, -1), other[:, :1].expand(-1, 3, -1, -1)))

    inputs = completed(count=2, draws=2, shape=(3, 32, 33))
    found = restoration_figures(inputs, [Perceptual(mine)])
    singles = [mine(one.drawn.clamp(0, 1) * 2 - 1, (one.truth * 2 - 1).expand_as(one.drawn)).mean() for one in inputs]
    assert found["lpips_single"] == pytest.approx(float(torch.stack(singles).mean()), rel=1e-4)
    assert restoration_figures(completed(), [Perceptual(mine)]) == {}  # images are too small
    assert list(RESTORATION) == ["psnr", "ssim", "lpips", "l2", "coverage"]
