"""What is said of samples: real ones, noise, copies, too few."""

from pathlib import Path

import pytest
import torch

from common.data import SOURCES, DataOptions, DataSet, Split
from common.metrics import METRICS
from common.metrics.verdict import Figure, Outcome, against_real, differ, figure_in, verdict
from tests.evidence import evidence_of


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """1,000 digits to learn from, 397 held out, and 400 that nobody has seen."""
    whole = SOURCES["digits"]().load(DataOptions(Path("data")))
    images = torch.cat([whole.train.images, whole.held_out.images])
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    parts = (Split(part, torch.zeros(len(part), dtype=torch.int64)) for part in (images[:1000], images[1000:1397]))
    data = DataSet(*parts)
    object.__setattr__(data, "unseen", images[1397:])
    return data


def said(digits: DataSet, samples: torch.Tensor) -> tuple[dict[str, Outcome], str]:
    metrics = [METRICS[name]() for name in ("nearest", "sw", "kid", "c2st")]
    evidence = evidence_of(samples, None, digits)
    figures = {name: value for metric in metrics for name, value in metric(evidence).items()}
    return {metric.names[0]: against_real(figures, metric)[0] for metric in metrics[1:]}, verdict(figures, metrics)


def test_fresh_real_samples_are_not_told_from_others(digits):
    found, line = said(digits, digits.to_unit_range(digits.unseen))
    assert set(found.values()) == {Outcome.UNDECIDED}, line
    assert line.startswith("undecided by sw (")


def test_noise_is_worse_for_all(digits):
    found, line = said(digits, torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert set(found.values()) == {Outcome.WORSE}
    assert line.startswith("worse than real samples by sw (")


def test_what_is_not_known_is_not_decided():
    metrics = [METRICS["sw"](), METRICS["nearest"]()]
    assert verdict({"sw": 1.0}, metrics) == "unknown, for want of samples, drawn or real, by sw"
    assert verdict({"sw": 1.0}, metrics[1:]) == ""
    known = {"sw": 1.0, "sw_low": 0.9, "sw_high": 1.1, "sw_real": 0.5, "sw_real_low": 0.4, "sw_real_high": 0.6}
    assert against_real(known, metrics[0])[0] is Outcome.WORSE
    copies = known | {"sw": 0.1, "sw_low": 0.05, "sw_high": 0.15}
    assert verdict(copies, metrics) == f"{Outcome.CLOSER.value} by sw (0.1, real 0.5)"
    at_equal_numbers = {"sw_at": 0.6, "sw_at_low": 0.4, "sw_at_high": 0.8}  # the others are of more samples
    assert against_real(known | at_equal_numbers, metrics[0]) == (Outcome.UNDECIDED, " (0.6, real 0.5)")
    assert figure_in(known, "sw") == Figure(1.0, 0.9, 1.1)
    assert figure_in(known | {"sw_low": None}, "sw") is None


@pytest.mark.parametrize(("shift", "is_decided"), [(2.7, False), (2.8, True)])  # 1.96 * sqrt(2) = 2.77
def test_differences_are_held_against_both_intervals(shift, is_decided):
    one = Figure(0.0, -1.96, 1.96)
    assert differ(one, Figure(shift, shift - 1.96, shift + 1.96)) == is_decided
