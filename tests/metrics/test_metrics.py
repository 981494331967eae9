"""Metrics on real digits, where the answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import DataOptions, DataSet
from common.data.digits import Digits
from common.data.source import Split
from common.metrics import METRICS, Evidence, Metric, evaluate
from common.metrics import base as limits
from common.metrics.accumulated import ClassAgreement, NearestRatio
from common.metrics.agreement import PixelClassifier
from common.refusal import Refusal
from tests.evidence import evidence_of


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return Digits().load(DataOptions(Path("unused")))


@pytest.fixture(scope="module")
def train(digits) -> torch.Tensor:
    return digits.train.images / 255


@pytest.fixture(scope="module")
def held_out(digits) -> torch.Tensor:
    return digits.held_out.images / 255


@pytest.fixture(scope="module")
def classifier(digits, train) -> PixelClassifier:
    return PixelClassifier(train, digits.train.labels)


def agreement(classifier, images, labels) -> float:
    metric = ClassAgreement(classifier)
    metric.update(images, labels)
    return float(metric.compute())


def test_the_classifier_reads_real_digits(digits, classifier, held_out):
    read = classifier(held_out)
    assert read.shape == (297,)
    assert read.dtype == torch.int64
    assert (read == digits.held_out.labels).double().mean() > 0.97
    assert agreement(classifier, held_out, digits.held_out.labels) == (
        (read == digits.held_out.labels).double().mean().item()
    )


def test_shuffled_labels_agree_by_chance(digits, classifier, held_out):
    shuffled = digits.held_out.labels[torch.randperm(297, generator=torch.Generator().manual_seed(0))]
    assert agreement(classifier, held_out, shuffled) == pytest.approx(0.1, abs=0.06)  # deviation 0.017
    assert agreement(classifier, held_out, (digits.held_out.labels + 1) % 10) < 0.03


def test_noise_agrees_by_chance(classifier):
    labels = torch.arange(200) % 10
    assert agreement(classifier, torch.rand(200, 1, 8, 8), labels) < 0.3


def test_copies_have_ratio_0_and_fresh_data_1(train, held_out):
    def ratio(images: torch.Tensor) -> float:
        metric = NearestRatio(train, held_out)
        metric.update(images)
        return float(metric.compute())

    assert ratio(train[:300]) < 0.01
    assert ratio(held_out) == pytest.approx(1, abs=1e-6)
    # two halves of the fresh data: 150 images each, so a few per cent of noise
    half = NearestRatio(train, held_out[:150])
    half.update(held_out[150:])
    assert float(half.compute()) == pytest.approx(1, abs=0.1)
    assert ratio((train[:300] + held_out[:297].mean(0)).clamp(0, 1)) > 1.2  # far from any digit
    # almost copies: noise of deviation 0.02 on 64 pixels is a distance of 0.16
    assert ratio(train[:300] + 0.02 * torch.randn(300, 1, 8, 8)) == pytest.approx(0.16 / float(half.reference), rel=0.1)


def test_distance_is_to_the_nearest(train):
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).reshape(2, 1, 1, 2)
    metric = NearestRatio(points, torch.tensor([[0.0, 2.0]]).reshape(1, 1, 1, 2))
    metric.update(torch.tensor([[0.0, 1.0], [3.0, 9.0]]).reshape(2, 1, 1, 2))
    assert float(metric.compute()) == pytest.approx((1 + 5) / 2 / 2)


@pytest.mark.parametrize("kind", ["agreement", "nearest"])
def test_parts_and_processes_add_up(digits, train, held_out, classifier, kind):
    """Updates in unequal parts, and the states of two processes summed as torchmetrics sums them, equal one update."""
    images, labels = held_out[:90].repeat(3, 1, 1, 1)[:101] * 0.9, (torch.arange(101) * 3) % 10

    def made():
        return ClassAgreement(classifier) if kind == "agreement" else NearestRatio(train, held_out)

    def update(metric, part: slice) -> None:
        metric.update(images[part], labels[part]) if kind == "agreement" else metric.update(images[part])

    whole, parts, left, right = (made() for _ in range(4))
    update(whole, slice(0, 101))
    for part in (slice(0, 7), slice(7, 80), slice(80, 101)):
        update(parts, part)
    update(left, slice(0, 30))
    update(right, slice(30, 101))
    assert float(parts.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)
    # what torchmetrics does after gathering: reduce every state by its own rule
    merged = made()
    for name, reduce in merged._reductions.items():
        setattr(merged, name, reduce(torch.stack([getattr(left, name), getattr(right, name)])))
    merged._update_count = 1
    assert float(merged.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)
    assert float(left.compute()) != pytest.approx(float(whole.compute()), rel=1e-6)
    whole.reset()
    update(whole, slice(0, 30))
    assert float(whole.compute()) == pytest.approx(float(left.compute()), rel=1e-6)


# -- several of them --------------------------------------------------------------------------------------------------


def evidence(digits, images, labels=None) -> Evidence:
    """What evaluate.py hands over: arrays as they lie on disk, in the units of the data."""
    arrays = (images / 255).movedim(1, -1).numpy()
    return evidence_of(arrays, None if labels is None else labels.numpy(), digits, Path("runs/a"))


def test_evaluate_gives_and_prints_the_figures(digits, train, held_out, classifier, capsys):
    images, labels = digits.train.images[:60], digits.train.labels[:60]
    figures = evaluate(evidence(digits, images, labels), [METRICS["agreement"](), METRICS["nearest"]()])
    assert list(figures) == ["samples", "agreement", "agreement_real", "nearest"]
    assert (figures["samples"], figures["nearest"]) == (60, pytest.approx(0, abs=1e-3))
    scaled = PixelClassifier(2 * train - 1, digits.train.labels)
    assert figures["agreement"] == agreement(scaled, 2 * train[:60] - 1, labels)
    assert figures["agreement_real"] == agreement(scaled, 2 * held_out - 1, digits.held_out.labels)
    assert capsys.readouterr().out.splitlines() == [
        "samples   runs/a: 60",
        "classifier being fitted on training pixels ..",
        f"agreement {figures['agreement']:.1%} read as the class asked for; of 297 held-out real",
        f"          samples the same classifier reads {figures['agreement_real']:.1%} right",
        f"nearest   {figures['nearest']:.3f} distance to the nearest training image, relative to held-out images",
        "          (near 1: as new as fresh data; near 0: copies)",
    ]


@pytest.mark.parametrize("classes", [None, ("all",)])
def test_agreement_without_labels_says_so(digits, capsys, classes):
    images, labels = digits.train.images[:5], digits.train.labels[:5]
    assert evaluate(evidence(digits, images), [METRICS["agreement"]()]) == {"samples": 5}
    assert "agreement needs labels; these samples were drawn without" in capsys.readouterr().out
    parts = {
        name: replace(getattr(digits, name), labels=getattr(digits, name).labels * 0) for name in ("train", "held_out")
    }
    others = replace(digits, num_classes=None, classes=classes, **parts)
    assert evaluate(evidence(others, images, labels), [METRICS["agreement"]()]) == {"samples": 5}
    assert "agreement needs labels; the data has fewer than two classes" in capsys.readouterr().out


class Brightness(Metric):
    """What a user writes: mean level of the samples above that of real ones.

    Args:
        quantile: share of the pixels that is left out.
    """

    def __init__(self, quantile: float = 0.5) -> None:
        self.quantile = quantile

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        drawn, real = (x.quantile(self.quantile) for x in (evidence.samples, evidence.held_out.x[:100]))
        return {"brightness": float(drawn - real)} if evidence.spec.is_image else {}


def test_a_metric_of_ones_own(digits, capsys, monkeypatch):
    monkeypatch.setitem(METRICS, "brightness", Brightness)
    brighter = digits.held_out.images[:100] // 2 + 127
    figures = evaluate(evidence(digits, brighter), [METRICS["brightness"](quantile=0.9)])
    assert figures["brightness"] == pytest.approx(float((brighter / 255 * 2 - 1).quantile(0.9)) - 0.882, abs=0.2)
    assert capsys.readouterr().out.splitlines()[-1] == f"brightness {figures['brightness']:.4g}"
    parts = (Split(part.images.flatten(2).float(), part.labels) for part in (digits.train, digits.held_out))
    functions = DataSet(*parts, value_range=(0.0, 255.0))
    found = evidence_of(np.zeros((4, 64, 1), np.float32), None, functions, Path("a"))
    assert evaluate(found, [Brightness()]) == {"samples": 4}
    assert "brightness does not apply to these samples" in capsys.readouterr().out
    with pytest.raises(TypeError):
        Metric()


def test_real_data_is_read_once_if_it_is_asked_for_and_within_limits(digits, monkeypatch):
    reads = []
    read = Split.read
    monkeypatch.setattr(Split, "read", lambda part, limit: reads.append(limit) or read(part, limit))
    monkeypatch.setattr(limits, "NUMBERS_LIMIT", 64 * 10)
    found = evidence(digits, digits.train.images[:5])
    assert found.samples.shape == (5, 1, 8, 8)
    assert found.samples.aminmax() == (-1, 1)
    assert torch.allclose(found.samples, digits.spec.to_network(digits.train.images[:5]), atol=1e-6)
    assert not reads
    assert found.train.x is found.train.x
    assert (len(found.train.x), len(found.train.labels), len(found.held_out.x)) == (10, 10, 10)
    assert reads == [10, 10]
    rows = torch.arange(10) * 150
    assert torch.equal(found.train.x, digits.spec.to_network(digits.train.images[rows]))
    assert torch.equal(found.train.labels, digits.train.labels[rows])


def test_samples_that_cannot_be_compared_are_refused(digits):
    with pytest.raises(Refusal, match=r"\(1, 8, 8\), but those in a are \(3, 8, 8\)") as caught:
        evidence_of(np.zeros((2, 8, 8, 3), np.float32), None, digits, Path("a"))
    assert caught.value.argument == "data_dir"
