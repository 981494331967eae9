"""train.py with what a test needs: ``driven.py '{"pause": 0.1}' flags ..``; see :class:`Wishes`."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training.interrupted import make_quick

WAITS = "waiting to be killed"


@dataclass(frozen=True)
class Wishes:
    """What shall happen in the steps of a training.

    Attributes:
        pause: seconds that every step takes more.
        kills: rank and step in which a process kills itself, one for every attempt that torchrun makes.
        waits: attempt, rank and step in which a process says that it waits, and does until it is killed.
        limit: seconds without a sign of life after which a process counts as lost; 0 leaves it as it is.
    """

    pause: float = 0.0
    kills: list[list[int]] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    limit: float = 0.0


def main() -> int:
    """Train; the first process says of every step that it is in it."""
    wishes = Wishes(**json.loads(sys.argv[1]))
    import train
    from common.cluster.watch import Watch
    from common.training.module import DiffusionModule

    make_quick()
    if wishes.limit:
        Watch.beat, Watch.limit = 0.5, wishes.limit
    training_step = DiffusionModule.training_step
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))

    def driven(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        time.sleep(wishes.pause)
        place = [self.global_rank, batch.micro_step]
        if self.global_rank == 0:
            print(f"in step {batch.micro_step}", flush=True)
        if place in wishes.kills[attempt : attempt + 1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if [attempt, *place] == wishes.waits:
            print(WAITS, flush=True)
            time.sleep(600)
        return loss

    DiffusionModule.training_step = driven  # type: ignore[method-assign]
    return train.main(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
