"""One bar for all who draw a set: in samples, also within the blocks that are drawn, with samples per second."""

import time
from collections import Counter
from typing import Any

from common.generation.blocks import Job
from common.generation.drawing import Part
from common.progress import bar

LOOKED_EVERY = 2.0  # seconds at least between two looks at what others have drawn


def progress_of(job: Job, steps: int, reached: float) -> float:
    """Which part of a block is done, from 0 to 1.

    Args:
        job: what it is made with.
        steps: solver steps that were made.
        reached: time that was reached; by it, if the solver chooses its steps.
    """
    if job.steps is not None:
        return min(1.0, steps / job.steps)
    end = job.config.t_end or 0.0
    return min(1.0, max(0.0, (job.dynamics.horizon - reached) / (job.dynamics.horizon - end)))


class Advance:
    """How many samples of a set are there, shown in one bar, as a context.

    Args:
        job: what they are made with.
        part: what is drawn.
        todo: the blocks of it that are not there.
        silent: show nothing.
    """

    def __init__(self, job: Job, part: Part, todo: list[range], *, silent: bool = False) -> None:
        self._job, self._part = job, part
        mine = {block.start for block in part.blocks}
        self._others = {} if part.is_all else {b.start: len(b) for b in job.blocks if b.start not in mine}
        self._whole = sum(map(len, part.blocks)) - sum(map(len, todo))
        self._steps, self._begun, self._elsewhere, self._looked = Counter[int](), dict[int, int](), 0, 0.0
        self._look()
        self._bar: Any = bar(
            len(job.seeds), "sampling", " samples", initial=self._there, lasting=True, silent=silent or not todo
        )

    def __enter__(self) -> "Advance":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def _there(self) -> int:
        return self._whole + self._elsewhere + sum(self._begun.values())

    def _look(self, *, now: bool = False) -> None:
        if self._others and (now or time.monotonic() - self._looked >= LOOKED_EVERY):
            starts = map(self._part.place.start_of, self._part.place.blocks())
            self._elsewhere, self._looked = sum(self._others.get(start, 0) for start in starts), time.monotonic()

    def show(self, *, now: bool = False) -> None:
        """Bring the bar up to date, also with what others have drawn, at which is looked now and then, or now."""
        self._look(now=now)
        if difference := self._there - self._bar.n:
            self._bar.update(difference)

    def step(self, block: range, reached: float) -> None:
        """A solver step of a block was made, to a time."""
        self._steps[block.start] += 1
        self._begun[block.start] = int(len(block) * progress_of(self._job, self._steps[block.start], reached))
        self.show()

    def whole(self, block: range) -> None:
        """A block is written."""
        self.lost(block)
        self._whole += len(block)
        self.show()

    def lost(self, block: range) -> None:
        """What was done of a block is lost, or counted otherwise."""
        self._steps.pop(block.start, None)
        self._begun.pop(block.start, None)
