"""Features against computations by hand, their weights by check sum, and figures with their intervals."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import SOURCES, DataOptions, DataSet, Split
from common.metrics import METRICS, Compared, Evidence
from common.metrics.compared import spread_of
from common.metrics.features import FEATURES, Wanted, choose, classifier, lenet
from common.metrics.features.base import in_unit_range
from common.metrics.features.weights import PinnedWeights
from common.metrics.points import frechet, moments
from common.refusal import Refusal
from tests.evidence import evidence_of


def wanted(tmp_path, data: DataSet) -> Wanted:
    return Wanted(data, tmp_path / "weights", tmp_path / "cache")


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return SOURCES["digits"]().load(DataOptions(Path("data")))


def grey28(count: int = 40) -> DataSet:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), generator=rng, dtype=torch.uint8)
    part = Split(images, torch.arange(count) % 10)
    return DataSet(part, part, num_classes=10)


# -- LeNet ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """A file of random weights under the names of the published one."""
    rng = np.random.default_rng(0)
    shapes = {"conv2d": (5, 5, 1, 6), "conv2d_1": (5, 5, 6, 16), "dense": (576, 120), "dense_1": (120, 84)}
    shapes["dense_2"] = (84, 10)
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"{name}/kernel"] = rng.normal(0, 0.2, shape).astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(0, 0.2, shape[-1]).astype(np.float32)
    (tmp_path / "weights").mkdir()
    np.savez(tmp_path / "weights" / "lenet5.npz", **arrays)
    content = (tmp_path / "weights" / "lenet5.npz").read_bytes()
    pinned = PinnedWeights("lenet5.npz", hashlib.sha256(content).hexdigest(), "the authors")
    monkeypatch.setattr(lenet.LeNet, "weights", (pinned,))
    return arrays


def by_hand(image: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Keras' LeNet-5 in NumPy: channels last, kernels HWIO, on an image (32, 32) in [0, 1]."""

    def conv(x, name, pad):
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(0, 1))  # H, W, C, 5, 5
        return np.tanh(np.einsum("hwcij,ijco->hwo", windows, kernel) + bias)

    def pool(x):
        height, width, channels = x.shape
        return x.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))

    x = pool(conv(pool(conv(image[..., None], "conv2d", 2)), "conv2d_1", 0)).reshape(-1)
    for name in ("dense", "dense_1"):
        x = np.tanh(x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"])
    return x


def test_lenet_is_the_published_network(tmp_path, weights):
    features = FEATURES["lenet"](wanted(tmp_path, grey28()))
    level = 0.25  # a constant image stays one when it is resized
    constant = features(torch.full((2, 1, 28, 28), 2 * level - 1))
    assert constant.shape == (2, 84)
    assert np.allclose(constant[0], by_hand(np.full((32, 32), level), weights), atol=1e-5)
    image = torch.rand(1, 1, 28, 28) * 2 - 1
    resized = torch.nn.functional.interpolate((image + 1) / 2, (32, 32), mode="bilinear")[0, 0].numpy()
    assert np.allclose(features(image)[0], by_hand(resized, weights), atol=1e-4)
    assert not features.suits  # random weights read one in ten right: auto takes another


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_weights_that_are_not_the_published_ones_are_refused(tmp_path, weights, damage):
    path = tmp_path / "weights" / "lenet5.npz"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Refusal) as refused:
        choose("lenet", wanted(tmp_path, grey28()))
    text = str(refused.value)
    assert "lenet5.npz" in text
    assert "the authors" in text
    assert ("bring it there, or name its folder by --weights_dir" if damage == "missing" else "SHA-256") in text
    assert choose("auto", wanted(tmp_path, grey28())).name != "lenet" if damage == "missing" else True


# -- the others -------------------------------------------------------------------------------------------------------


def test_the_classifier_knows_its_data_and_is_kept(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 150)
    order = wanted(tmp_path, digits)
    first = FEATURES["classifier"](order)
    assert first.accuracy > 0.95
    (kept,) = order.cache_dir.iterdir()
    changed = kept.stat().st_mtime_ns
    x = digits.to_unit_range(digits.held_out.images)
    again = FEATURES["classifier"](order)
    assert kept.stat().st_mtime_ns == changed
    assert torch.equal(first(x), again(x))
    kept.write_bytes(b"damaged")
    assert torch.equal(FEATURES["classifier"](order)(x), first(x))  # made again, the same
    assert f"{first.accuracy:.1%} of held-out samples right" in first.account
    assert again(x).shape == (297, 128)


def test_auto_takes_what_can_be_had(tmp_path, digits):
    unlabelled = DataSet(*(Split(part.images, part.labels * 0) for part in (digits.train, digits.held_out)))
    order = wanted(tmp_path, unlabelled)
    there = [kind for kind in FEATURES.values() if kind.automatic and not kind.lacking(order)]
    assert there[-1].name == "pixels"
    assert choose("auto", order).name == next(kind.name for kind in there if kind(order).suits)
    with pytest.raises(Refusal, match="features classifier needs data with at least two classes"):
        choose("classifier", wanted(tmp_path, unlabelled))
    with pytest.raises(Refusal, match="'clip2' is unknown; there are auto, lenet, "):
        choose("clip2", wanted(tmp_path, digits))
    with pytest.raises(Refusal, match="lenet reads 28x28 grey images"):
        choose("lenet", wanted(tmp_path, digits))


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="extra metrics")
def test_efficientnet_has_the_published_weights(tmp_path, digits):
    features = choose("efficientnet", wanted(tmp_path, digits))
    x = digits.to_unit_range(digits.held_out.images[:4])
    assert features(x).shape == (4, 1280)
    assert torch.allclose(features(x), torch.cat([features(one[None]) for one in x]), atol=1e-4)


def test_colours_become_grey_and_grey_colours():
    x = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    assert float(in_unit_range(x, 1)) == pytest.approx(0.299)
    assert in_unit_range(x[:, :1] * 3, 3).flatten().tolist() == [1, 1, 1]
    assert in_unit_range(torch.zeros(1, 4, 1, 1), 3).shape == (1, 3, 1, 1)


# -- figures with intervals -------------------------------------------------------------------------------------------


def test_spread_is_that_of_other_samples():
    """Over 200 sets of samples the jackknife's deviation is that of the figure itself, within a quarter."""
    real = moments(torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)))
    found, told = [], []
    for seed in range(200):
        x = torch.randn(100, 4, generator=torch.Generator().manual_seed(seed + 1)) * 1.5
        found.append(frechet(moments(x), real))
        told.append(spread_of(lambda some: {"fid": frechet(moments(some), real)}, x)["fid"])
    assert np.mean(told) == pytest.approx(np.std(found), rel=0.25)


COMPARED = [name for name, kind in METRICS.items() if issubclass(kind, Compared) and name != "is"]  # has its own test


@pytest.mark.parametrize("name", COMPARED)
def test_figures_tell_good_samples_from_bad_ones(tmp_path, digits, name):
    def evidence(samples: torch.Tensor) -> Evidence:
        return evidence_of(samples, None, digits, tmp_path)

    metric, real = METRICS[name](), digits.to_unit_range(digits.held_out.images)
    good = metric(evidence(real + 0.02 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))))
    bad = metric(evidence(torch.rand(real.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1))
    for figure in metric.names:
        assert good[f"{figure}_low"] < good[figure] < good[f"{figure}_high"]
        if metric.better:
            assert (good[figure] - bad[figure]) * metric.better > 0
    few = metric(evidence(real[:3]))
    assert all(np.isnan(few[figure]) for figure in metric.names)
    assert any("undefined" in line for line in metric.lines(few, evidence(real[:3])))


def test_auto_takes_none_that_leaves_a_channel_out(tmp_path):
    """Figures would be the same whatever the second one holds."""
    part = Split(torch.rand(20, 2, 32, 32), torch.zeros(20, dtype=torch.int64))
    assert choose("auto", wanted(tmp_path, DataSet(part, part))).name == "pixels"


def test_the_accuracy_of_a_classifier_is_that_of_the_held_out_part_at_hand(tmp_path):
    images = torch.cat([torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.full((40, 1, 8, 8), 255, dtype=torch.uint8)])
    labels = torch.arange(80) // 40
    right, wrong = (
        FEATURES["classifier"](wanted(tmp_path, DataSet(Split(images, labels), Split(images, truth), num_classes=2)))
        for truth in (labels, 1 - labels)
    )
    assert (right.accuracy, wrong.accuracy) == (1, 0)
