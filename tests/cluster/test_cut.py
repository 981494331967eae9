"""A network that is cut for a while: the watch of a process finds the store over another connection."""

import os
import threading
import time
from pathlib import Path

import pytest

from common.cluster.peers import Peer
from common.cluster.place import Place
from common.cluster.watch import Watch

PEERS = [Peer(rank, f"node-{rank}", f"machine-{rank}", 1, "", "", str(rank)) for rank in range(2)]


class Entries:
    """A board; over the first connection nothing is answered from the third question on."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.is_old, self.asked = self.made == 1, 0
        self.beat = 0

    def write(self, name: str, entry: object) -> None:
        self.asked += 1
        if self.is_old and self.asked > 2:
            threading.Event().wait(20)

    def read_all(self, names: list[str]) -> list[dict[str, int]]:
        self.beat += 1
        return [{"beat": self.beat}, {"beat": self.beat}, {"beat": 0}]


def test_store_is_asked_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)  # of the watch's own thread
    for name, seconds in {"beat": 0.02, "patient": 0.1, "limit": 0.4, "grace": 0.0}.items():
        monkeypatch.setattr(Watch, name, seconds)
    monkeypatch.setattr(Entries, "made", 0)
    watch = Watch(Place(1, 2, 0, 1), PEERS, Entries, "room", Path(), print)  # type: ignore[arg-type]
    watch.begin()
    time.sleep(0.9)
    assert watch.verdict() is None
    assert Entries.made == 2
    watch.end()
    assert not ends
