"""For every test: one thread, a seed of its own, the default dtype put back; no GPU test without a GPU."""

import random
import zlib

import numpy as np
import pytest
import torch

from common.metrics.features import classifier


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _short_classifier(monkeypatch: pytest.MonkeyPatch):
    """The classifier whose features are compared learns for a second: only its own tests need it to be good."""
    monkeypatch.setattr(classifier, "STEPS", 10)


@pytest.fixture(autouse=True)
def _same_start_for_every_test(request: pytest.FixtureRequest):
    """Seeds from the test's name, so that neither the order nor the number of workers changes a result."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
