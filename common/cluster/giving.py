"""Entries of a meeting that one process writes, and others wait for as long as all are there."""

import time
from collections.abc import Callable
from typing import Any

from common.cluster.store import AGAIN, Board
from common.cluster.watch import Watch


def given(board: Board, name: str, watch: Watch, make: Callable[[], Any] | None) -> Any:
    """What one process makes, in all.

    Args:
        board: where entries are.
        name: of the entry.
        watch: looks after the other processes.
        make: gives plain data, in the process that makes it; None in the others.

    Raises:
        Ended: in the others, if it could not be made.
    """
    if make is not None:
        board.write(name, make())
    return awaited(board, name, watch)


def awaited(board: Board, name: str, watch: Watch) -> Any:
    """An entry that will come, unless a process ends.

    Raises:
        Ended: if one does.
    """
    while (entry := board.read(name)) is None:
        watch.check()
        time.sleep(AGAIN)
    return entry
