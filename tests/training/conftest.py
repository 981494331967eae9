from pathlib import Path

import pytest

from common.training.session import RUN_ID_VARIABLE
from tests.training import tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """No .env and no ./data of a developer's checkout plays in, and no variable outlives a test."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_ROOT", RUN_ID_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
