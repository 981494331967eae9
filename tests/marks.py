"""Cases of a test that `make test` leaves to `make test-all`."""

from typing import Any

import pytest


def later(*values: object) -> Any:
    """A case for the marker slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
