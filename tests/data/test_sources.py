"""The data sets: what is in them, and what is said when they are not there."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from common.data import SOURCES, DataOptions, DataSet
from common.data.digits import Digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> DataSet:
    return Digits().load(DataOptions(tmp_path_factory.mktemp("empty")))


def rows(*parts) -> torch.Tensor:
    """Pixels and label of every sample, sorted, to compare sets of samples."""
    table = torch.cat([torch.cat([part.images.flatten(1).long(), part.labels[:, None]], 1) for part in parts])
    return table[np.lexsort(table.T.numpy())]


def test_digits_are_the_scans_of_scikit_learn(digits):
    bunch = load_digits()
    assert len(digits.train.labels) == 1500
    assert len(digits.held_out.labels) == 297
    assert digits.num_classes == 10
    assert digits.shape == (1, 8, 8)
    scans = torch.from_numpy(bunch.images).reshape(-1, 64).mul(255 / 16).round().long()
    table = torch.cat([scans, torch.from_numpy(bunch.target)[:, None]], 1)
    # the same 1,797 rows in another order: the two parts are disjoint and nothing is lost
    assert torch.equal(rows(digits.train, digits.held_out), table[np.lexsort(table.T.numpy())])


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_digits_are_bytes_over_the_whole_range(digits, part):
    split = getattr(digits, part)
    assert split.images.dtype == torch.uint8
    assert split.labels.dtype == torch.int64
    assert split.images.shape[1:] == (1, 8, 8)
    assert split.images.min() == 0
    assert split.images.max() == 255
    assert len(split.images.unique()) == 17  # the scans have 17 grey levels


def test_digits_are_split_in_proportion(digits):
    total = torch.bincount(torch.cat([digits.train.labels, digits.held_out.labels]))
    held_out = torch.bincount(digits.held_out.labels)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert ((held_out - total * 297 / 1797).abs() < 1).all()


def test_digits_hold_out_the_same_scans_always(digits, tmp_path):
    np.random.seed(1)
    torch.manual_seed(1)
    again = Digits().load(DataOptions(tmp_path))
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.held_out.labels, digits.held_out.labels)
    digest = hashlib.sha256(digits.held_out.images.numpy().tobytes()).hexdigest()
    assert digest == "f56e24c63f14e2aa0dec40dfc9dce7d581bf9dacfe031c8b1705f52f1a0baa35"


def test_digits_touch_no_file(tmp_path):
    Digits().load(DataOptions(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())


def test_sources_are_found_by_name():
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}
    assert set(SOURCES) == {
        *("digits", "mnist", "fashionmnist", "cifar10", "cifar100"),
        *("celeba", "spokendigits", "folder", "sounds", "arrays"),
    }
