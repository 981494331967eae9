"""Figures of nothing: what is undefined is said to be, is null in the file, and the other figures still come."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torchmetrics

from common.data.source import DataSet, Split
from common.metrics import METRICS, Compared, Evidence, Metric, evaluate
from common.metrics.compared import is_detail
from common.metrics.of_values import OfValues
from common.refusal import Refusal
from tests.evidence import evidence_of

KINDS = [kind for name, kind in METRICS.items() if name != "is"]  # which needs answers, that pixels do not give
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (60, 1, 8, 8), generator=GENERATOR, dtype=torch.uint8)
FRESH = torch.randint(0, 256, (20, 1, 8, 8), generator=GENERATOR, dtype=torch.uint8)
DRAWN = np.random.default_rng(0).random((9, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(9) % 3


def split(images: torch.Tensor, labels: torch.Tensor | None = None) -> Split:
    return Split(images, torch.arange(len(images)) % 3 if labels is None else labels)


PLAIN = DataSet(split(IMAGES), split(FRESH), num_classes=3, classes=("a", "b", "c"))


@dataclass(frozen=True)
class Case:
    """Data and samples about which something is undefined, what that is, and what is said."""

    undefined: set[str]
    said: str
    data: DataSet = PLAIN
    count: int = len(DRAWN)
    scale: float = 1.0


def some(index: int) -> torch.Tensor:
    """Labels of sixty samples, all 0 but one."""
    return torch.zeros(60, dtype=torch.int64).index_fill(0, torch.tensor([index]), 1)


CONSTANT = torch.full_like(IMAGES, 7)
FEW = replace(PLAIN, train=split(IMAGES[:2]), num_classes=9, classes=tuple("abcdefghi"))
# thread or report: what is undefined, what is said, and of which data or samples
CASES = {
    "all defined": Case(set(), "samples the same classifier reads"),
    "nothing held out": Case(
        {"agreement_real", "nearest"}, "undefined: nothing is held out", replace(PLAIN, held_out=split(FRESH[:0]))
    ),
    "TransGAN#49: two sets that are the same": Case(
        {"nearest"}, "undefined: all 20 held-out samples are training", replace(PLAIN, held_out=split(IMAGES[5:25]))
    ),
    "constant pixels": Case(
        {"nearest"}, "undefined: all 20", replace(PLAIN, train=split(CONSTANT), held_out=split(CONSTANT[:20]))
    ),
    "a constant held-out part": Case(set(), "samples the same", replace(PLAIN, held_out=split(CONSTANT[:20]))),
    "training labels of one class": Case(
        {"agreement", "agreement_real"}, "all of one class", replace(PLAIN, train=split(IMAGES, some(0) * 0))
    ),
    "held-out labels of one class": Case(
        set(), "samples the same", replace(PLAIN, held_out=split(FRESH, some(0)[1:21]))
    ),
    "a class that is never learned": Case(
        set(), "(3 samples were asked for of classes that it has not seen", replace(PLAIN, train=split(IMAGES, some(9)))
    ),
    "Frechet-Inception-Distance#1: fewer samples than classes": Case(set(), "(7 samples were asked for", FEW),
    "one sample to learn from": Case(
        {"agreement", "agreement_real"}, "all of one", replace(PLAIN, train=split(IMAGES[:1]))
    ),
    "one sample": Case(set(), "samples   x: 1", count=1),
    "piq#309: samples of one colour": Case(set(), "nearest   ", scale=0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_undefined_is_null_and_the_others_come(case, capsys):
    drawn, labels = DRAWN[: case.count] * case.scale, np.arange(case.count) % (case.data.num_classes or 1)
    evidence = evidence_of(drawn.astype(np.float32), labels, case.data)
    # figures of samples themselves have tests of their own, in test_functions.py
    found = evaluate(evidence, [kind() for kind in KINDS if not issubclass(kind, OfValues)])
    plain = {name for name in found if not is_detail(name)}
    compared = {name for kind in KINDS if issubclass(kind, Compared) for name in kind.names}
    known = {"samples", "agreement", "agreement_real", "nearest", *compared, *(f"{name}_real" for name in compared)}
    assert known >= plain >= {"samples", "agreement", "agreement_real", "nearest", *compared}
    undefined = {name for name, figure in found.items() if figure is None}
    assert undefined - compared == case.undefined
    assert compared.isdisjoint(undefined) or min(case.count, len(case.data.train.labels)) < 6
    json.dumps(found, allow_nan=False)
    out = capsys.readouterr().out
    assert case.said in out
    assert ("null in the file of figures" in out) == bool(undefined)
    assert "nan" not in out
    assert "inf" not in out


def test_a_copy_is_no_distance_away():
    """Also with the rounding of a distance that is computed from products: it came out 6,500 times the reference."""
    copies = (IMAGES[:9].float() / 255).movedim(1, -1).numpy()
    assert evaluate(evidence_of(copies, None, PLAIN), [METRICS["nearest"]()])["nearest"] == 0


def test_samples_that_are_not_finite_are_left_out_and_counted(capsys):
    """MotionDiffuse#21: with a NaN among them every figure was one."""
    drawn = DRAWN.copy()
    drawn[1, 2, 3], drawn[4, 0, 0] = np.nan, np.inf
    kept = [0, 2, 3, 5, 6, 7, 8]
    metrics = [kind() for kind in KINDS]
    found = evaluate(evidence_of(drawn, LABELS, PLAIN), metrics)
    assert "note      2 more hold NaN or infinite values; all figures are without them" in capsys.readouterr().out
    assert found == evaluate(evidence_of(DRAWN[kept], LABELS[kept], PLAIN), metrics) | {"not_finite": 2}
    with pytest.raises(Refusal, match="no sample there is finite"):
        evidence_of(drawn[1:2], None, PLAIN)


class Odd(Metric):
    """What a user's metric may give: an empty state, a division by nothing, numbers of NumPy and torch.

    (ludwig#3129, helm#1784, Polaris#287: one NaN among the figures, and the whole file is no JSON.)
    """

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        with np.errstate(all="ignore"):
            ratio = np.float64(1) / np.float64(0)
        empty = torchmetrics.MeanMetric()
        figures = {"ratio": ratio, "count": 3, "mean": torch.tensor(0.5), "single": np.float32(0.25)}
        return {**figures, "empty": empty.compute(), "below": -np.inf}


@pytest.mark.filterwarnings("ignore:.*compute.*was called before.*update")
def test_a_metric_of_ones_own_may_be_undefined(capsys):
    found = evaluate(evidence_of(DRAWN, None, PLAIN), [Odd(), METRICS["nearest"]()])
    assert isinstance(found["nearest"], float)
    assert {**found, "nearest": 0} == {
        "samples": 9, "ratio": None, "count": 3, "mean": 0.5, "single": 0.25, "empty": None, "below": None, "nearest": 0
    }  # fmt: skip
    json.dumps(found, allow_nan=False)
    out = capsys.readouterr().out
    assert "ratio     undefined\ncount     3\n" in out
    assert "note      undefined, so null in the file of figures: ratio, empty, below" in out
