from pathlib import Path

import pytest

from tests.training import tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """No .env and no ./data of a developer's checkout plays in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_ROOT", raising=False)
