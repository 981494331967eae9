"""train.py that sends itself a signal in a micro-step (-1: never): ``interrupted.py SIGNAL MICRO_STEP flags ..``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import train
from common.training import callbacks, ema
from common.training.module import DiffusionModule


def make_quick(setattr: Callable[..., None] = setattr) -> None:
    """Average from step 5 on (not only copy), and spend little on pictures."""
    setattr(ema, "START", 5)
    setattr(callbacks, "GRID_STEPS", 2)
    setattr(callbacks, "GRID_SAMPLES", 4)
    setattr(callbacks, "save_figure", lambda path, figure: None)


def main() -> int:
    """Train until the signal."""
    number, at, *flags = sys.argv[1:]
    make_quick()
    training_step = DiffusionModule.training_step

    def interrupted(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        if batch.micro_step == int(at):
            os.kill(os.getpid(), signal.Signals[number])
        return loss

    DiffusionModule.training_step = interrupted  # type: ignore[method-assign]
    return train.main(flags)


if __name__ == "__main__":
    raise SystemExit(main())
