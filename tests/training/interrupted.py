"""train.py that sends itself a signal within a given micro-step: ``interrupted.py SIGNAL MICRO_STEP flags ..``."""

import os
import runpy
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from common.training import ema  # noqa: E402
from common.training.module import DiffusionModule  # noqa: E402


def main() -> None:
    number, at, *flags = sys.argv[1:]
    ema.START = 5  # so that few steps average, not only copy
    training_step = DiffusionModule.training_step

    def interrupted(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        if batch.micro_step == int(at):
            os.kill(os.getpid(), signal.Signals[number])
        return loss

    DiffusionModule.training_step = interrupted  # type: ignore[method-assign]
    sys.argv = ["train.py", *flags]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
