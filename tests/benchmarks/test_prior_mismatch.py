"""The table of the published prior's mismatch: its errors, bands and shares, and the lines it prints."""

import pytest
import torch

from benchmarks.prior_mismatch import BANDS, CONFIGS, by_band, errors, line, main, multiplicity
from tests.samplers.fields import Law, smooth_field


def test_errors_are_relative_and_mode_by_mode():
    field = smooth_field((8, 6))
    want = Law(field.analysis(field.mean), field.spectrum)
    mean, variance = errors(Law(want.mean * 0.9, want.variance * 1.2), want)
    there = want.mean.abs() > 1e-9
    assert 0 < there.sum() < there.numel()  # the mean function has few waves
    assert torch.allclose(mean, 0.1 * there.double())
    assert torch.allclose(variance, torch.full_like(variance, 0.2))


@pytest.mark.parametrize("shape", [(32, 32), (9, 31)])
def test_shares_are_those_of_the_whole_spectrum(shape):
    field = smooth_field(shape)
    want = Law(field.analysis(field.mean), field.spectrum)
    got = Law(want.mean, want.variance * 1.1)
    bands = by_band(got, want, shape)
    assert len(bands) == len(BANDS)
    assert sum(share for _, _, share in bands) == pytest.approx(1)
    assert bands[0][2] == pytest.approx(field.spectrum.flatten()[0].item() / (shape[0] * shape[1]))  # of 1 per pixel
    assert [spectrum for _, spectrum, _ in bands] == pytest.approx([0.1] * len(BANDS))
    counts = multiplicity(shape).expand(shape[0], -1)
    assert counts.sum() == shape[0] * shape[1]
    assert line("label", got, want, shape).startswith("label ")


def test_every_published_setting_is_printed(capsys):
    assert main(["--steps", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 * len(CONFIGS)
    rows = {
        (i // 7, text[:30].strip()): float(text[30:].split()[0]) for i, text in enumerate(lines) if "prior," in text
    }
    assert len(rows) == 4 * len(CONFIGS)
    for config in range(len(CONFIGS)):
        assert rows[config, "published prior, exp2 x 60"] > 0.05  # worst share of a mode's mean that is missing
        assert rows[config, "data prior, exp2 x 60"] < 1e-9
        exact = rows[config, "published prior, exact ODE"]
        assert rows[config, "published prior, exp2 x 60"] == pytest.approx(exact, rel=0.15)
        assert rows[config, "published prior, exact SDE"] < exact
