"""Train a diffusion model: ``python train.py [--preset NAME] [flags]``; see ``--help``."""

from collections.abc import Sequence

from common.program import run_program, start_program

if __name__ == "__main__":
    start_program()  # the following takes seconds

import args
from common.config.parser import reporting


def main(argv: Sequence[str] | None = None) -> int:
    """Run train.py; returns the exit code."""
    with reporting("train.py", args.train_flag_names):
        order = args.parse_train(argv)
        if order is None:
            return 0
        from common.training.fitting import train  # here: Lightning takes long to import, and help does not need it

        return train(order)


if __name__ == "__main__":
    run_program(main, "stopped; nothing was lost")
