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


@dataclass(frozen=True)
class Wishes:
    """What shall happen in the steps of a training.

    Attributes:
        pause: seconds that every step takes more.
        told: rank that says ``in step N``, within every step.
        kills: of every attempt that torchrun makes, the rank and the micro-step in which it kills itself.
        waits: rank and micro-step in which a process stays for ever, so that it can be killed there.
    """

    pause: float = 0.0
    told: int = 0
    kills: list[tuple[int, int]] = field(default_factory=list)
    waits: tuple[int, int] = (-1, -1)


def main() -> int:
    """Train."""
    wishes = Wishes(**json.loads(sys.argv[1]))
    import train  # here: after the streams are set up
    from common.training.module import DiffusionModule

    make_quick()
    training_step = DiffusionModule.training_step

    def driven(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        rank, attempt = self.global_rank, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        time.sleep(wishes.pause)
        if rank == wishes.told:
            print(f"in step {batch.micro_step}", flush=True)
        if attempt < len(wishes.kills) and (rank, batch.micro_step) == tuple(wishes.kills[attempt]):
            os.kill(os.getpid(), signal.SIGKILL)
        if (rank, batch.micro_step) == tuple(wishes.waits):
            print("waiting to be killed", flush=True)
            time.sleep(600)
        return loss

    DiffusionModule.training_step = driven  # type: ignore[method-assign]
    return train.main(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
