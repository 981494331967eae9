"""Signs of life of processes that draw shares of one set: the time of a file, which each changes every few seconds.

Whoever has a lock may be stopped, or wait for a file system without end, and never give it back.
"""

import contextlib
import os
import threading
import time

from common.files import owner_of
from common.files.lock import LOCK
from common.generation.sections import Shard
from common.progress import tell
from common.runs import SampleFolder

EVERY = 2.0  # seconds between two signs
LIMIT = 45.0  # seconds without one after which a process counts as lost
LEAP = 5.0  # seconds that count at most between two looks: whoever looks may have been stopped meanwhile, with all


class Listening:
    """Which of the shares of a set are held by somebody who gives no sign of life.

    Args:
        count: how many shares there are.
    """

    def __init__(self, count: int) -> None:
        self._count, self._looked = count, time.monotonic()
        self._signs, self._ages = dict[int, int](), dict[int, float]()
        self._told: set[int] = set()

    def silent(self, place: SampleFolder) -> list[int]:
        """Their numbers; each is told once.

        Args:
            place: the set.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LEAP), now
        for number in range(self._count):
            try:
                sign = (place.shard(number, self._count) / LOCK).stat().st_mtime_ns
            except OSError:
                sign = -1  # nobody has it
            if sign != self._signs.get(number) or sign == -1:
                self._signs[number], self._ages[number] = sign, 0.0
            else:
                self._ages[number] += passed
        return [number for number, age in self._ages.items() if age > LIMIT and self._is_held(place, number)]

    def _is_held(self, place: SampleFolder, number: int) -> bool:
        if (owner := owner_of(place.shard(number, self._count))) is None:
            return False
        if number not in self._told:
            self._told.add(number)
            tell(
                f"note      process {number} of {self._count} gives no sign of life: {owner}. Is it stopped, or does "
                "its file system not answer?"
            )
        return True


class Beating:
    """Gives signs of life for a share, as a context, and listens to others in between.

    Args:
        place: the set.
        shard: the share, whose lock this process has.
        listening: what looks at the others; None looks at nobody.
    """

    def __init__(self, place: SampleFolder, shard: Shard, listening: Listening | None = None) -> None:
        self._place, self._lock, self._listening = place, place.shard(*shard) / LOCK, listening
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, name="signs-of-life", daemon=True)

    def __enter__(self) -> "Beating":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(EVERY)  # it may hang

    def _live(self) -> None:
        while not self._end.wait(EVERY):
            with contextlib.suppress(OSError):  # then there is no sign
                os.utime(self._lock)
            if self._listening:
                self._listening.silent(self._place)
