"""Nodes that somebody starts by hand, with $NODE_RANK."""

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from common.training.session import is_first_process, number_by_node


@pytest.mark.parametrize(
    ("variables", "nodes", "is_first"),
    [
        ({"NODE_RANK": "1"}, 2, False),
        ({"NODE_RANK": "0"}, 2, True),
        ({}, 2, True),
        ({"NODE_RANK": "1"}, 1, True),  # left in the shell
        ({"NODE_RANK": "x"}, 2, True),
        ({"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, 2, True),  # Lightning's own, which it numbers
    ],
)
def test_first_process_is_on_the_first_node(
    variables: dict[str, str], nodes: int, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    number_by_node(nodes)
    assert is_first_process() == is_first
