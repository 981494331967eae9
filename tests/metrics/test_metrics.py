"""Metrics on real digits, where the answer is known."""

from pathlib import Path

import pytest
import torch

from common.data import DataOptions, DataSet
from common.data.digits import Digits
from common.metrics import ClassAgreement, NearestRatio, PixelClassifier


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
